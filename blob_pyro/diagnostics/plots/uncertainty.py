"""In- against out-of-distribution uncertainty, as two histograms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from blob_pyro.diagnostics.arrays import Values
from blob_pyro.diagnostics.calibration import check_num_bins
from blob_pyro.diagnostics.plots.style import axes_or_new, plot_style, series
from blob_pyro.diagnostics.uncertainty import auroc, mutual_information, predictive_entropy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURES = {
    "entropy": (predictive_entropy, "predictive entropy (nats)"),
    "mutual_information": (mutual_information, "mutual information (nats)"),
}

HEADROOM = 1.3  # times the tallest bar: the legend stands above the histograms


def plot_uncertainty(
    in_logits: Values,
    out_logits: Values,
    *,
    measure: Literal["entropy", "mutual_information"] = "entropy",
    num_bins: int = 30,
    ax: Axes | None = None,
) -> Axes:
    """Plot the uncertainty of in- and out-of-distribution examples side by side.

    Parameters
    ----------
    in_logits
        K x N x C, float: logits of in-distribution examples.
    out_logits
        K' x N' x C', float: logits of out-of-distribution examples, which need no labels.
    measure
        ``"entropy"``: total uncertainty; ``"mutual_information"``: what the draws disagree
        about, for which K and K' must be at least 2.
    num_bins
        Number of bins of equal width, shared by both histograms.
    ax
        Axes to draw in; new ones if None.

    Returns
    -------
    matplotlib.axes.Axes
        The axes, with the AUROC of telling the two apart as title of the legend.

    Raises
    ------
    ValueError
        If the logits, the measure or ``num_bins`` are not valid, or the mutual information of
        a single draw is asked for.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> ax = plot_uncertainty([[[0.0, 5.0]] * 3], [[[0.0, 0.1]] * 3])
    >>> ax.get_legend().get_title().get_text()
    'AUROC 1.000'
    """
    if measure not in MEASURES:
        raise ValueError(
            f"measure is {measure!r}; wanted one of {sorted(MEASURES)}. For another score use "
            "blob_pyro.diagnostics.auroc and a histogram of your own."
        )
    score, axis_label = MEASURES[measure]
    check_num_bins(num_bins)
    in_scores, out_scores = score(in_logits), score(out_logits)
    if measure == "mutual_information":
        _check_draws("in_logits", in_logits)
        _check_draws("out_logits", out_logits)
    highest = float(max(in_scores.max(), out_scores.max())) or 1.0  # 0 if all are certain
    edges = np.linspace(0.0, highest, num_bins + 1)

    with plot_style():
        ax = axes_or_new(ax)
        for index, (name, scores) in enumerate((("in", in_scores), ("out of", out_scores))):
            look = series(index)
            ax.hist(
                scores,
                bins=edges.tolist(),
                weights=np.full(len(scores), 1.0 / len(scores)),
                histtype="stepfilled",
                label=f"{name} distribution (N = {len(scores)})",
                facecolor=(look.color, 0.15),
                edgecolor=look.color,
                linestyle=look.linestyle,
                linewidth=1.4,
                hatch=look.hatch,
            )
        ax.set(xlabel=axis_label, ylabel="share of examples")
        ax.set(xlim=(edges[0], edges[-1]), ylim=(0.0, HEADROOM * ax.dataLim.y1))
        title = f"AUROC {auroc(in_scores, out_scores):.3f}"
        ax.legend(title=title, loc="upper left", alignment="left")
    return ax


def _check_draws(name: str, logits: Values) -> None:
    num_draws = np.shape(logits)[0]
    if num_draws < 2:
        raise ValueError(
            f"{name} has {num_draws} draw; wanted at least 2 for mutual information, which is 0 "
            "for one draw. Predict with more draws, or use measure='entropy'."
        )
