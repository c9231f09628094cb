"""Total uncertainty of each example, split into what more data leaves and what it could remove."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blob_pyro.diagnostics.arrays import Values, check_labels
from blob_pyro.diagnostics.plots.style import axes_or_new, plot_style, series
from blob_pyro.diagnostics.predictive import log_probs
from blob_pyro.diagnostics.uncertainty import expected_entropy, mutual_information

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADROOM = 1.3  # times the tallest example: the legend stands above


def plot_decomposition(
    logits: Values, labels: Values | None = None, *, ax: Axes | None = None
) -> Axes:
    """Plot the uncertainty of each example, the least uncertain first.

    The lower part is the mean entropy of the draws (aleatoric), the upper one their mutual
    information with the weights (epistemic), both together the predictive entropy.

    Parameters
    ----------
    logits
        K x N x C, float: K posterior draws, N examples, C classes.
    labels
        N, integer: where given, ticks on the lower edge mark the examples that are answered wrong.
    ax
        Axes to draw in; new ones if None.

    Returns
    -------
    matplotlib.axes.Axes
        The axes, with two filled steps.

    Raises
    ------
    ValueError
        If logits or labels are not valid.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> ax = plot_decomposition([[[0.0, 3.0], [0.0, 1.0]], [[0.0, 3.0], [1.0, 0.0]]])
    >>> ax.get_legend_handles_labels()[1]
    ['epistemic (mean 0.055)', 'aleatoric (mean 0.387)']

    References
    ----------
    Depeweg, Hernandez-Lobato, Doshi-Velez, Udluft: "Decomposition of uncertainty in Bayesian deep
    learning for efficient and risk-sensitive learning", ICML 2018.
    """
    aleatoric, epistemic = expected_entropy(logits), mutual_information(logits)
    total = aleatoric + epistemic
    order = np.argsort(total, kind="stable")
    wrong = np.zeros(len(total), dtype=bool)
    if labels is not None:
        log_p = log_probs(logits)
        num_examples, num_classes = log_p.shape
        label = check_labels(labels, num_examples=num_examples, num_classes=num_classes)
        wrong = log_p.argmax(axis=1) != label
    parts = {
        "epistemic": (total, aleatoric, epistemic.mean(), series(1)),
        "aleatoric": (aleatoric, np.zeros_like(total), aleatoric.mean(), series(0)),
    }
    with plot_style():
        ax = axes_or_new(ax)
        edges = np.arange(len(total) + 1)
        for name, (top, bottom, mean, look) in parts.items():
            ax.stairs(
                top[order],
                edges,
                baseline=bottom[order],
                fill=True,
                facecolor=(look.color, 0.3),
                edgecolor=look.color,
                hatch=look.hatch,
                linewidth=0,
                label=f"{name} (mean {mean:.3f})",
            )
            ax.stairs(top[order], edges, baseline=None, color=look.color, linewidth=1.2)
        if labels is not None:
            at = np.flatnonzero(wrong[order]) + 0.5
            ax.plot(
                at,
                np.zeros(len(at)),
                marker="|",
                markersize=9,
                color="black",
                linestyle="none",
                clip_on=False,
                label=f"wrong ({len(at)})",
            )
        ax.set(xlabel="examples, by total uncertainty", ylabel="uncertainty (nats)")
        ax.set(xlim=(0, len(total)), ylim=(0, HEADROOM * float(total.max()) or 1.0))
        ax.legend(loc="upper left")
    return ax
