"""Bayesian LoRA in Pyro: BLoB posteriors over the adapters of PEFT models."""

import lazy_loader

# The names are in __init__.pyi, each loaded when first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
