"""Diagnosis of a posterior predictive: arrays in; numbers, ArviZ objects or figures out.

Everything takes the K x N x C logits (and the labels) that
``blob_pyro.infer.posterior_predictive`` returns; nothing here needs Pyro or PEFT.
"""

import lazy_loader

# The names are in __init__.pyi.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
