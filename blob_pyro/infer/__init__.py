"""Objectives, schedules and prediction."""

from blob_pyro.infer.kl_weight import Schedule, kl_weight
from blob_pyro.infer.posterior_predictive import posterior_draws, posterior_predictive
from blob_pyro.infer.reweighted_trace_elbo import ELBOTerms, ReweightedTrace_ELBO

__all__ = [
    # objectives
    "ELBOTerms",
    "ReweightedTrace_ELBO",
    # schedules
    "Schedule",
    "kl_weight",
    # prediction
    "posterior_draws",
    "posterior_predictive",
]
