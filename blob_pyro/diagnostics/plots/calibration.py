"""Confidence against accuracy: the reliability diagram, and risk against coverage."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from blob_pyro.diagnostics.calibration import ReliabilityCurve, reliability_curve, risk_coverage
from blob_pyro.diagnostics.metrics import expected_calibration_error
from blob_pyro.diagnostics.plots.style import Series, series, styled_axes
from blob_pyro.diagnostics.predictive import BoolArray, Values

STRIP_HEIGHT = 0.28  # room under zero accuracy for the histogram, in units of accuracy
FEW = 5  # examples; the accuracy of fewer says next to nothing, and no line leads to it
STRIP_LABEL = "confidence histogram"
GREY = "0.4"


def plot_reliability(
    logits: Values,
    labels: Values,
    *,
    num_bins: int = 15,
    label: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot observed accuracy against mean confidence, bin by bin.

    Points above the diagonal are underconfident, points below it overconfident. Bars and band are
    95 % Wilson intervals of the accuracy; bins of fewer than five examples are pale and off the
    line; the strip below shows how many of the examples fall in each bin. Call it again with the
    same axes to compare methods: each gets its own colour, marker and line style.

    Parameters
    ----------
    logits
        K x N x C, float: K posterior draws, N examples, C classes.
    labels
        N, integer, from 0 to C - 1.
    num_bins
        Number of bins of equal width, as in
        :func:`~blob_pyro.diagnostics.expected_calibration_error`.
    label
        Name of the method in the legend; the ECE follows it.
    ax
        Axes to draw in; new ones if None.

    Returns
    -------
    matplotlib.axes.Axes
        The axes; the strip is its ``child_axes[0]``.

    Raises
    ------
    ValueError
        If logits, labels or ``num_bins`` are not valid.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> ax = plot_reliability([[[0.0, 2.0]] * 4], [1, 1, 1, 0], label="BLoB")
    >>> ax.get_legend_handles_labels()[1]
    ['BLoB (ECE 0.131)']

    References
    ----------
    Guo, Pleiss, Sun, Weinberger (2017), "On calibration of modern neural networks".
    """
    curve = reliability_curve(logits, labels, num_bins=num_bins)
    name = _named(label, f"ECE {expected_calibration_error(logits, labels, num_bins):.3f}")
    with styled_axes(ax) as axes:
        strips = [child for child in axes.child_axes if child.get_label() == STRIP_LABEL]
        strip = strips[0] if strips else _set_up(axes)
        look = series(len(axes.containers) // 2)
        _draw_curve(axes, curve, name, look)
        _draw_histogram(strip, curve, look)
        axes.legend(loc="upper left")
        return axes


def _named(label: str | None, number: str) -> str:
    return number if label is None else f"{label} ({number})"


def _set_up(ax: Axes) -> Axes:
    bottom, top = -STRIP_HEIGHT, 1.03
    ax.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (1, 1.5)), linewidth=1.2, zorder=1)
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=1)
    ax.set(xlim=(0, 1), ylim=(bottom, top), yticks=np.linspace(0, 1, 6))
    ax.set(xlabel="confidence (probability of the predicted class)")
    ax.set_ylabel("observed accuracy", y=(0.5 - bottom) / (top - bottom))
    strip = ax.inset_axes((0, 0, 1, STRIP_HEIGHT / (top - bottom) * 0.85), label=STRIP_LABEL)
    strip.set(xlim=(0, 1), xticks=[], yticks=[0])
    style: Any = {"fontsize": 8, "color": GREY, "va": "top", "transform": strip.transAxes}
    strip.text(0.01, 0.92, "share of examples", **style)
    strip.grid(False)
    strip.patch.set_visible(False)
    strip.spines[:].set_visible(False)
    return strip


def _draw_curve(ax: Axes, curve: ReliabilityCurve, name: str, look: Series) -> None:
    trusted = curve.counts >= FEW
    confidence, lower, upper = curve.confidence[trusted], curve.lower[trusted], curve.upper[trusted]
    ax.fill_between(confidence, lower, upper, color=look.color, alpha=0.1, linewidth=0)
    _draw_bins(ax, curve, trusted, {**look.line, "label": name, "capsize": 2.5})
    few = (curve.counts > 0) & ~trusted
    _draw_bins(ax, curve, few, {**look.line, "linestyle": "none", "label": "_few", "alpha": 0.3})


def _draw_bins(ax: Axes, curve: ReliabilityCurve, bins: BoolArray, style: dict[str, Any]) -> None:
    accuracy = curve.accuracy[bins]
    reach = np.stack([accuracy - curve.lower[bins], curve.upper[bins] - accuracy])
    edge: Any = {"markeredgecolor": "white", "markeredgewidth": 0.6, "elinewidth": 1.0}
    # Rounding makes an interval's end miss 0 or 1 by 1e-17.
    ax.errorbar(curve.confidence[bins], accuracy, yerr=np.maximum(reach, 0.0), **edge, **style)


def _draw_histogram(strip: Any, curve: ReliabilityCurve, look: Series) -> None:
    share = curve.counts / curve.counts.sum()
    edges = np.linspace(0, 1, len(share) + 1)
    strip.stairs(share, edges, fill=True, facecolor=(look.color, 0.15))
    strip.stairs(share, edges, color=look.color, linestyle=look.linestyle, linewidth=1.3)
    highest = max(float(share.max()), *strip.get_yticks())
    strip.set(ylim=(0, 1.05 * highest), yticks=[highest])
    strip.set_yticklabels([f"{highest:.0%}"], fontsize=8, color=GREY)


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
    name = _named(label, f"AURC {curve.area:.3f}")
    with styled_axes(ax) as axes:
        number, every = len(axes.lines), max(1, len(curve.risk) // 8)
        look = series(number)
        band: Any = {"color": look.color, "alpha": 0.12, "lw": 0}
        axes.fill_between(curve.coverage, curve.lower, curve.upper, **band)
        marks = (every // 2 * number % every, every)
        axes.plot(curve.coverage, curve.risk, markevery=marks, label=name, **look.line)
        axes.set(xlabel="coverage (share of examples answered)", ylabel="risk (share of errors)")
        axes.set(xlim=(0, 1), ylim=(0, None))
        axes.legend(loc="upper left")
        return axes
