"""Diagnosis of a posterior predictive: arrays in; numbers, ArviZ objects or figures out.

Everything takes the K x N x C logits (and the labels) that
``blob_pyro.infer.posterior_predictive`` returns; nothing here needs Pyro or PEFT.
"""

from blob_pyro.diagnostics.bootstrap import bootstrap_interval
from blob_pyro.diagnostics.calibration import ReliabilityCurve, reliability_curve
from blob_pyro.diagnostics.inference_data import from_pyro_svi
from blob_pyro.diagnostics.metrics import (
    METRICS,
    accuracy,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    summarize,
)
from blob_pyro.diagnostics.predictive_distribution import log_probs
from blob_pyro.diagnostics.reliability import plot_reliability
from blob_pyro.diagnostics.style import plot_style
from blob_pyro.diagnostics.token_uncertainty import color_tokens, tokens_html
from blob_pyro.diagnostics.uncertainty import (
    auroc,
    expected_entropy,
    max_probability,
    mutual_information,
    predictive_entropy,
)
from blob_pyro.diagnostics.uncertainty_plot import plot_uncertainty

__all__ = [
    # the predictive distribution
    "log_probs",
    # metrics
    "METRICS",
    "accuracy",
    "bootstrap_interval",
    "brier_score",
    "expected_calibration_error",
    "negative_log_likelihood",
    "summarize",
    # calibration
    "ReliabilityCurve",
    "reliability_curve",
    # uncertainty
    "auroc",
    "expected_entropy",
    "max_probability",
    "mutual_information",
    "predictive_entropy",
    # uncertain tokens
    "color_tokens",
    "tokens_html",
    # ArviZ
    "from_pyro_svi",
    # plots
    "plot_reliability",
    "plot_style",
    "plot_uncertainty",
]
