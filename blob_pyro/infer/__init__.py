"""Objectives, schedules and prediction."""

from blob_pyro.infer.data_pass import evaluation_mode, own_random_state
from blob_pyro.infer.decoupled_svi import DecoupledSVI, SpreadUpdates
from blob_pyro.infer.generate import Generation, generate
from blob_pyro.infer.importance_weights import importance_log_weights
from blob_pyro.infer.kl_weight import Schedule, kl_weight, rescaled_num_batches
from blob_pyro.infer.log_densities import log_densities
from blob_pyro.infer.posterior_draws import posterior_draws
from blob_pyro.infer.posterior_functions import PosteriorFunctions
from blob_pyro.infer.posterior_predictive import posterior_predictive
from blob_pyro.infer.reweighted_trace_elbo import ELBOTerms, ReweightedTrace_ELBO, check_gradient

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
    "PosteriorFunctions",
    "Generation",
    "evaluation_mode",
    "generate",
    "own_random_state",
    "posterior_draws",
    "posterior_predictive",
    # densities of draws
    "importance_log_weights",
    "log_densities",
]
