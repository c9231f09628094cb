"""From a base model and a task to a fitted posterior: settings, methods by name, and a run."""

import lazy_loader

# The names are in __init__.pyi.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
