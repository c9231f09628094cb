"""The reliability diagram: whether a confidence of 80 % means right in 80 % of cases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from blob_pyro.diagnostics.arrays import BoolArray, Values
from blob_pyro.diagnostics.calibration import ReliabilityCurve, reliability_curve
from blob_pyro.diagnostics.metrics import expected_calibration_error
from blob_pyro.diagnostics.plots.style import Series, axes_or_new, plot_style, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    ece = expected_calibration_error(logits, labels, num_bins)
    name = f"ECE {ece:.3f}" if label is None else f"{label} (ECE {ece:.3f})"

    with plot_style():
        ax = axes_or_new(ax)
        strip = _find_strip(ax) or _set_up(ax)
        look = series(len(ax.containers) // 2)
        _draw_curve(ax, curve, name, look)
        _draw_histogram(strip, curve, look)
        ax.legend(loc="upper left")
    return ax


def _find_strip(ax: Axes) -> Any:
    strips = [child for child in ax.child_axes if child.get_label() == STRIP_LABEL]
    return strips[0] if strips else None


def _set_up(ax: Axes) -> Axes:
    bottom, top = -STRIP_HEIGHT, 1.03
    ax.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (1, 1.5)), linewidth=1.2, zorder=1)
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=1)
    ax.set(xlim=(0, 1), ylim=(bottom, top), yticks=np.linspace(0, 1, 6))
    ax.set(xlabel="confidence (probability of the predicted class)")
    ax.set_ylabel("observed accuracy", y=(0.5 - bottom) / (top - bottom))
    strip = ax.inset_axes((0, 0, 1, STRIP_HEIGHT / (top - bottom) * 0.85), label=STRIP_LABEL)
    strip.set(xlim=(0, 1), xticks=[], yticks=[0])
    strip.text(
        0.01, 0.92, "share of examples", fontsize=8, color=GREY, va="top", transform=strip.transAxes
    )
    strip.grid(False)
    strip.patch.set_visible(False)
    strip.spines[:].set_visible(False)
    return strip


def _draw_curve(ax: Axes, curve: ReliabilityCurve, name: str, look: Series) -> None:
    trusted = curve.counts >= FEW
    ax.fill_between(
        curve.confidence[trusted],
        curve.lower[trusted],
        curve.upper[trusted],
        color=look.color,
        alpha=0.1,
        linewidth=0,
    )
    _draw_bins(ax, curve, trusted, look, linestyle=look.linestyle, label=name, capsize=2.5)
    few = (curve.counts > 0) & ~trusted
    _draw_bins(ax, curve, few, look, linestyle="none", alpha=0.3, label="_few")


def _draw_bins(
    ax: Axes, curve: ReliabilityCurve, bins: BoolArray, look: Series, **style: Any
) -> None:
    accuracy = curve.accuracy[bins]
    reach = np.stack([accuracy - curve.lower[bins], curve.upper[bins] - accuracy])
    ax.errorbar(
        curve.confidence[bins],
        accuracy,
        yerr=np.maximum(reach, 0.0),  # rounding makes an interval's end miss 0 or 1 by 1e-17
        color=look.color,
        marker=look.marker,
        markeredgecolor="white",
        markeredgewidth=0.6,
        elinewidth=1.0,
        **style,
    )


def _draw_histogram(strip: Axes, curve: ReliabilityCurve, look: Series) -> None:
    share = curve.counts / curve.counts.sum()
    edges = np.linspace(0, 1, len(share) + 1)
    strip.stairs(share, edges, fill=True, facecolor=(look.color, 0.15))
    strip.stairs(share, edges, color=look.color, linestyle=look.linestyle, linewidth=1.3)
    highest = max(float(share.max()), *strip.get_yticks())
    strip.set(ylim=(0, 1.05 * highest), yticks=[highest])
    strip.set_yticklabels([f"{highest:.0%}"], fontsize=8, color=GREY)
