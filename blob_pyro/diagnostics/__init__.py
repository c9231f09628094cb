"""Diagnosis of a posterior predictive: arrays in; numbers, ArviZ objects or figures out.

Everything takes the K x N x C logits (and the labels) that
``blob_pyro.infer.posterior_predictive`` returns; nothing here needs Pyro or PEFT.
"""

from blob_pyro.diagnostics.active_learning import LabelBatch, bald, batch_bald, variation_ratio
from blob_pyro.diagnostics.arviz.from_pyro_svi import from_pyro_svi
from blob_pyro.diagnostics.arviz.psis import loo, pareto_k
from blob_pyro.diagnostics.calibration import ReliabilityCurve, reliability_curve
from blob_pyro.diagnostics.fit_advice import fit_advice
from blob_pyro.diagnostics.loss_curve import loss_curve
from blob_pyro.diagnostics.metrics import (
    METRICS,
    accuracy,
    bootstrap_interval,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    summarize,
)
from blob_pyro.diagnostics.plots.decomposition import plot_decomposition
from blob_pyro.diagnostics.plots.draws import plot_draws
from blob_pyro.diagnostics.plots.loss import plot_loss
from blob_pyro.diagnostics.plots.reliability import plot_reliability
from blob_pyro.diagnostics.plots.scale_map import plot_scale_map, scale_ratios
from blob_pyro.diagnostics.plots.style import plot_style
from blob_pyro.diagnostics.plots.tokens import color_tokens, tokens_html
from blob_pyro.diagnostics.plots.uncertainty import plot_uncertainty
from blob_pyro.diagnostics.predictive import log_probs
from blob_pyro.diagnostics.risk_coverage import (
    RiskCoverage,
    plot_risk_coverage,
    risk_coverage,
)
from blob_pyro.diagnostics.uncertainty import (
    auroc,
    expected_entropy,
    max_probability,
    mutual_information,
    predictive_entropy,
)

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
    "fit_advice",
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
