"""Diagnosis of a posterior predictive: arrays in; numbers, ArviZ objects or figures out.

Everything takes the K x N x C logits (and the labels) that
``blob_pyro.infer.posterior_predictive`` returns; nothing here needs Pyro or PEFT.
"""

from blob_pyro.diagnostics.acquisition import bald, variation_ratio
from blob_pyro.diagnostics.batch_bald import LabelBatch, batch_bald
from blob_pyro.diagnostics.bootstrap import bootstrap_interval
from blob_pyro.diagnostics.calibration import ReliabilityCurve, reliability_curve
from blob_pyro.diagnostics.decomposition_plot import plot_decomposition
from blob_pyro.diagnostics.draws_plot import plot_draws
from blob_pyro.diagnostics.inference_data import from_pyro_svi
from blob_pyro.diagnostics.loss_curve import loss_curve
from blob_pyro.diagnostics.loss_plot import plot_loss
from blob_pyro.diagnostics.metrics import (
    METRICS,
    accuracy,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    summarize,
)
from blob_pyro.diagnostics.predictive_distribution import log_probs
from blob_pyro.diagnostics.psis import loo, pareto_k
from blob_pyro.diagnostics.reliability import plot_reliability
from blob_pyro.diagnostics.risk_coverage import (
    RiskCoverage,
    plot_risk_coverage,
    risk_coverage,
)
from blob_pyro.diagnostics.scale_map import plot_scale_map, scale_ratios
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
    # selective prediction
    "RiskCoverage",
    "risk_coverage",
    # posterior against prior
    "scale_ratios",
    # uncertainty
    "auroc",
    "expected_entropy",
    "max_probability",
    "mutual_information",
    "predictive_entropy",
    # what to label next
    "LabelBatch",
    "bald",
    "batch_bald",
    "variation_ratio",
    # uncertain tokens
    "color_tokens",
    "tokens_html",
    # ArviZ
    "from_pyro_svi",
    "loo",
    "loss_curve",
    "pareto_k",
    # plots
    "plot_decomposition",
    "plot_draws",
    "plot_loss",
    "plot_reliability",
    "plot_risk_coverage",
    "plot_scale_map",
    "plot_style",
    "plot_uncertainty",
]
