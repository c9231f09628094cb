"""Objectives, schedules and prediction."""

from blob_pyro.infer.decoupled_svi import DecoupledSVI, SpreadUpdates
from blob_pyro.infer.elbo_terms import ELBOTerms, check_gradient
from blob_pyro.infer.generate import Generation, generate
from blob_pyro.infer.kl_weight import Schedule, kl_weight, rescaled_num_batches
from blob_pyro.infer.posterior_draws import posterior_draws
from blob_pyro.infer.posterior_predictive import posterior_predictive
from blob_pyro.infer.prediction_state import evaluation_mode, own_random_state
from blob_pyro.infer.reweighted_trace_elbo import ReweightedTrace_ELBO

__all__ = [
    # inference
    "DecoupledSVI",
    "SpreadUpdates",
    # objectives
    "ELBOTerms",
    "ReweightedTrace_ELBO",
    "check_gradient",
    # schedules
    "Schedule",
    "kl_weight",
    "rescaled_num_batches",
    # prediction
    "Generation",
    "evaluation_mode",
    "generate",
    "own_random_state",
    "posterior_draws",
    "posterior_predictive",
]
