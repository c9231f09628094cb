"""Posteriors fitted around a trained adapter, and temperature scaling."""

from blob_pyro.posthoc.distillation import DirichletStudent, distill, distill_text
from blob_pyro.posthoc.ensemble import ensemble
from blob_pyro.posthoc.ivon import ivon
from blob_pyro.posthoc.laplace import laplace
from blob_pyro.posthoc.linear_probe import linear_probe
from blob_pyro.posthoc.swag import PathMoments, swag
from blob_pyro.posthoc.temperature import calibrate, fit_temperature
from blob_pyro.posthoc.tfb import tfb, to_singular_basis

__all__ = [
    # verbs
    "calibrate",
    "distill",
    "distill_text",
    "ensemble",
    "fit_temperature",
    "ivon",
    "laplace",
    "linear_probe",
    "swag",
    "tfb",
    "to_singular_basis",
    # classes
    "DirichletStudent",
    "PathMoments",
]
