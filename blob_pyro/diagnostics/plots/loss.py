"""How a fit went: loss, NLL and KL over steps, with the weight of the KL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blob_pyro.diagnostics.arrays import FloatArray
from blob_pyro.diagnostics.loss_curve import Records, loss_curve
from blob_pyro.diagnostics.plots.style import axes_or_new, plot_style, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {"nll": "NLL (nats, data set)", "kl": "KL (nats, unweighted)", "loss": "loss (descended)"}
GREY = "0.35"


def plot_loss(records: Records, *, ax: Axes | None = None) -> Axes:
    """Plot what was logged of each step.

    Each term is a running mean over a fiftieth of the steps, in front of the steps themselves.
    The terms have different units, hence the logarithmic axis; the weight of the KL has an axis of
    its own, on the right.

    Parameters
    ----------
    records
        What ``blob_pyro.training.fit`` returns.
    ax
        Axes to draw in; new ones if None.

    Returns
    -------
    matplotlib.axes.Axes
        The axes of the terms; those of the weight are the figure's last.

    Raises
    ------
    ValueError
        If there is no record.

    Examples
    --------
    >>> import matplotlib
    >>> from types import SimpleNamespace
    >>> matplotlib.use("agg")
    >>> terms = {"loss": 1.5, "nll": 300.0, "kl": 2000.0, "kl_weight": 0.01}
    >>> ax = plot_loss([SimpleNamespace(step=step, **terms) for step in range(10)])
    >>> ax.get_yscale()
    'log'
    """
    curve = loss_curve(records)
    step = curve["step"]
    with plot_style():
        ax = axes_or_new(ax)
        for index, (term, name) in enumerate(NAMES.items()):
            look = series(index)
            ax.plot(step, curve[term], color=look.color, alpha=0.2, lw=0.8)
            smooth = _running_mean(curve[term])
            ax.plot(step, smooth, color=look.color, linestyle=look.linestyle, label=name)
        # A point estimate's "KL" may be negative, and the KL of no posterior is zero.
        positive = all((curve[term] > 0).all() for term in NAMES)
        ax.set(xlabel="step", ylabel="value of the term", yscale="log" if positive else "symlog")
        right = ax.twinx()
        right.plot(step, curve["kl_weight"], color=GREY, lw=1.0, ls=(0, (1, 1)), label="KL weight")
        right.set_ylabel("KL weight", color=GREY)
        right.set_ylim(0, 1.15 * float(curve["kl_weight"].max()) or 1.0)
        right.grid(False)
        right.spines["right"].set_visible(True)
        _legend_above(ax, right)
    return ax


def _running_mean(values: FloatArray) -> FloatArray:
    half = len(values) // 100
    padded = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (padded[high] - padded[low]) / (high - low)


def _legend_above(ax: Axes, right: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    more_handles, more_labels = right.get_legend_handles_labels()
    ax.legend(
        handles + more_handles,
        labels + more_labels,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=2,
    )
