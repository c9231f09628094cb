"""Objectives, schedules, posteriors without training, and prediction."""

from blob_pyro.infer.data_pass import evaluation_mode, own_random_state
from blob_pyro.infer.decoupled_svi import DecoupledSVI, SpreadUpdates
from blob_pyro.infer.elbo_terms import ELBOTerms, check_gradient
from blob_pyro.infer.generate import Generation, generate
from blob_pyro.infer.importance_weights import importance_log_weights
from blob_pyro.infer.ivon import ivon
from blob_pyro.infer.kl_weight import Schedule, kl_weight, rescaled_num_batches
from blob_pyro.infer.laplace import laplace
from blob_pyro.infer.linearised_model import linearised_logits
from blob_pyro.infer.log_densities import log_densities
from blob_pyro.infer.path_moments import PathMoments
from blob_pyro.infer.posterior_draws import posterior_draws
from blob_pyro.infer.posterior_functions import PosteriorFunctions
from blob_pyro.infer.posterior_predictive import posterior_predictive
from blob_pyro.infer.reweighted_trace_elbo import ReweightedTrace_ELBO
from blob_pyro.infer.swag import swag
from blob_pyro.infer.temperature import calibrate, fit_temperature
from blob_pyro.infer.tfb import tfb

__all__ = [
    # inference
    "DecoupledSVI",
    "PathMoments",
    "SpreadUpdates",
    "laplace",
    "tfb",
    "ivon",
    "swag",
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
    "linearised_logits",
    "Generation",
    "evaluation_mode",
    "generate",
    "own_random_state",
    "posterior_draws",
    "posterior_predictive",
    # calibration
    "calibrate",
    "fit_temperature",
    # densities of draws
    "importance_log_weights",
    "log_densities",
]
