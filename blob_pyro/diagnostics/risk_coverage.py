"""Selective prediction: the error rate among the answers that a model is surest of."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blob_pyro.diagnostics.arrays import FloatArray, Values, check_labels
from blob_pyro.diagnostics.calibration import wilson_interval
from blob_pyro.diagnostics.plots.style import axes_or_new, plot_style, series
from blob_pyro.diagnostics.predictive import log_probs

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class RiskCoverage(NamedTuple):
    """One row for each threshold of the confidence, the surest answers first.

    Parameters
    ----------
    coverage
        T, float64, from above 0 to 1: share of the examples that are answered.
    risk
        T, float64, from 0 to 1: share of wrong answers among them.
    lower, upper
        T, float64: 95 % Wilson interval of the risk.
    area
        Mean risk over examples, each at its own threshold (AURC); lower is better.

    Examples
    --------
    >>> risk_coverage([[[0.0, 3.0], [0.0, 1.0]]], [1, 0]).risk
    array([0. , 0.5])
    """

    coverage: FloatArray
    risk: FloatArray
    lower: FloatArray
    upper: FloatArray
    area: float


def risk_coverage(logits: Values, labels: Values) -> RiskCoverage:
    """Compute the error rate among the answers above each confidence.

    Examples of one confidence are answered together, so their order does not matter.

    Parameters
    ----------
    logits
        K x N x C, float: K posterior draws, N examples, C classes.
    labels
        N, integer, from 0 to C - 1.

    Returns
    -------
    RiskCoverage
        One row for each of the T different confidences.

    Raises
    ------
    ValueError
        If logits or labels are not valid.

    Examples
    --------
    >>> curve = risk_coverage([[[0.0, 3.0], [0.0, 2.0], [0.0, 1.0]]], [1, 1, 0])
    >>> curve.coverage.round(2), round(curve.area, 3)
    (array([0.33, 0.67, 1.  ]), 0.111)

    References
    ----------
    Geifman, El-Yaniv: "Selective classification for deep neural networks", NeurIPS 2017.
    """
    log_p = log_probs(logits)
    num_examples, num_classes = log_p.shape
    label = check_labels(labels, num_examples=num_examples, num_classes=num_classes)
    confidence = log_p.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    errors = np.cumsum((log_p.argmax(axis=1) != label)[order])
    last = np.flatnonzero(np.diff(confidence[order], append=-np.inf))  # of each confidence
    answered = last + 1
    risk = errors[last] / answered
    lower, upper = wilson_interval(errors[last], answered)
    coverage = answered / num_examples
    area = float(np.sum(np.diff(coverage, prepend=0.0) * risk))
    return RiskCoverage(coverage, risk, lower, upper, area)


def plot_risk_coverage(
    logits: Values, labels: Values, *, label: str | None = None, ax: Axes | None = None
) -> Axes:
    """Plot the error rate against the share of examples that are answered.

    A model whose confidence means something has a curve that falls towards the left: what it is
    sure of is right. At the right end all examples are answered. The band is the 95 % Wilson
    interval. Call it again with the same axes to compare methods.

    Parameters
    ----------
    logits
        K x N x C, float.
    labels
        N, integer, from 0 to C - 1.
    label
        Name of the method in the legend; the area under the curve (AURC) follows it.
    ax
        Axes to draw in; new ones if None.

    Returns
    -------
    matplotlib.axes.Axes
        The axes, with one line and one band a method.

    Raises
    ------
    ValueError
        If logits or labels are not valid.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> ax = plot_risk_coverage([[[0.0, 3.0], [0.0, 1.0]]], [1, 0], label="BLoB")
    >>> ax.get_legend_handles_labels()[1]
    ['BLoB (AURC 0.250)']
    """
    curve = risk_coverage(logits, labels)
    name = f"AURC {curve.area:.3f}" if label is None else f"{label} (AURC {curve.area:.3f})"
    with plot_style():
        ax = axes_or_new(ax)
        look = series(len(ax.lines))
        ax.fill_between(
            curve.coverage, curve.lower, curve.upper, color=look.color, alpha=0.12, lw=0
        )
        every = max(1, len(curve.risk) // 8)
        ax.plot(
            curve.coverage,
            curve.risk,
            color=look.color,
            linestyle=look.linestyle,
            marker=look.marker,
            markevery=(every // 2 * len(ax.lines) % every, every),
            label=name,
        )
        ax.set(xlabel="coverage (share of examples answered)", ylabel="risk (share of errors)")
        ax.set(xlim=(0, 1), ylim=(0, None))
        ax.legend(loc="upper left")
    return ax
