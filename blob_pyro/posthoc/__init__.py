"""Posteriors fitted around a trained adapter, and temperature scaling."""

from blob_pyro.posthoc.ensemble.guide import EnsembleGuide, ensemble
from blob_pyro.posthoc.ivon import ivon
from blob_pyro.posthoc.laplace.fit import laplace
from blob_pyro.posthoc.laplace.guide import LaplaceGuide, LaplacePredictive
from blob_pyro.posthoc.laplace.linearised import linearised_logits
from blob_pyro.posthoc.swag.fit import swag
from blob_pyro.posthoc.swag.guide import SWAGGuide
from blob_pyro.posthoc.swag.moments import PathMoments
from blob_pyro.posthoc.temperature import calibrate, fit_temperature
from blob_pyro.posthoc.tfb.fit import tfb, to_singular_basis
from blob_pyro.posthoc.tfb.guide import TFBGuide

__all__ = [
    # verbs
    "calibrate",
    "ensemble",
    "fit_temperature",
    "ivon",
    "laplace",
    "linearised_logits",
    "swag",
    "tfb",
    "to_singular_basis",
    # guides
    "EnsembleGuide",
    "LaplaceGuide",
    "LaplacePredictive",
    "TFBGuide",
    "SWAGGuide",
    # classes
    "PathMoments",
]
