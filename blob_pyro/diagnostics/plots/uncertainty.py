"""How unsure predictions are: of two data sets, of each example, and of the draws of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from scipy.special import softmax

from blob_pyro.diagnostics.calibration import check_num_bins
from blob_pyro.diagnostics.plots.style import name_ticks, series, styled_axes
from blob_pyro.diagnostics.predictive import Values, as_numpy, check_logits, log_probs_and_labels
from blob_pyro.diagnostics.uncertainty import (
    auroc,
    expected_entropy,
    mutual_information,
    predictive_entropy,
)

MEASURES = {
    "entropy": (predictive_entropy, "predictive entropy (nats)"),
    "mutual_information": (mutual_information, "mutual information (nats)"),
}
HEADROOM = 1.3  # times the tallest bar: the legend stands above


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
        raise ValueError(f"measure is {measure!r}; wanted one of {sorted(MEASURES)}")
    score, axis_label = MEASURES[measure]
    if measure == "mutual_information" and 1 in (len(in_logits), len(out_logits)):  # type: ignore[arg-type]
        raise ValueError("one draw has a mutual information of 0; predict with more draws")
    scores = score(in_logits), score(out_logits)
    return plot_scores(*scores, name=axis_label, num_bins=num_bins, ax=ax)


def plot_scores(
    in_scores: Values, out_scores: Values, *, name: str, num_bins: int = 30, ax: Axes | None = None
) -> Axes:
    """Plot any score of in- and out-of-distribution examples side by side.

    Parameters
    ----------
    in_scores, out_scores
        N and N', float: as in :func:`blob_pyro.diagnostics.auroc`.
    name
        What the score is called.
    num_bins, ax
        As in :func:`plot_uncertainty`.

    Returns
    -------
    matplotlib.axes.Axes
        As of :func:`plot_uncertainty`.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> plot_scores([0.0, 1.0], [1.0, 2.0], name="feature distance").get_xlabel()
    'feature distance'
    """
    check_num_bins(num_bins)
    scores = {"in": as_numpy(in_scores), "out of": as_numpy(out_scores)}
    lowest = min(0.0, *(float(values.min()) for values in scores.values()))
    highest = max(float(values.max()) for values in scores.values())
    # All are alike if all are certain.
    edges = np.linspace(lowest, highest if highest > lowest else lowest + 1, num_bins + 1)
    with styled_axes(ax) as axes:
        for index, (kind, values) in enumerate(scores.items()):
            axes.hist(
                values,
                bins=edges.tolist(),
                weights=np.full(len(values), 1.0 / len(values)),
                histtype="stepfilled",
                label=f"{kind} distribution (N = {len(values)})",
                linestyle=series(index).linestyle,
                linewidth=1.4,
                **series(index).area(0.15),
            )
        axes.set(xlabel=name, ylabel="share of examples")
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0.0, HEADROOM * axes.dataLim.y1))
        title = f"AUROC {auroc(scores['in'], scores['out of']):.3f}"
        axes.legend(title=title, loc="upper left", alignment="left")
        return axes


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
    aleatoric = expected_entropy(logits)
    total = aleatoric + mutual_information(logits)
    order = np.argsort(total, kind="stable")
    parts = [
        ("epistemic", aleatoric, total, series(1)),
        ("aleatoric", 0 * total, aleatoric, series(0)),
    ]
    marks = None
    if labels is not None:
        log_p, label = log_probs_and_labels(logits, labels)
        marks = np.flatnonzero((log_p.argmax(axis=1) != label)[order]) + 0.5
    with styled_axes(ax) as axes:
        edges = np.arange(len(total) + 1)
        for name, bottom, top, look in parts:
            values, baseline = top[order], bottom[order]
            label_text = f"{name} (mean {(top - bottom).mean():.3f})"
            fill = look.area(0.3) | {"fill": True, "linewidth": 0, "label": label_text}
            axes.stairs(values, edges, baseline=baseline, **fill)
            axes.stairs(values, edges, baseline=None, color=look.color, linewidth=1.2)
        if marks is not None:
            (ticks,) = axes.plot(marks, 0 * marks, "k|", ms=9, label=f"wrong ({len(marks)})")
            ticks.set_clip_on(False)
        axes.set(xlabel="examples, by total uncertainty", ylabel="uncertainty (nats)")
        axes.set(xlim=(0, len(total)), ylim=(0, HEADROOM * float(total.max()) or 1.0))
        axes.legend(loc="upper left")
        return axes


def plot_draws(
    logits: Values,
    example: int,
    *,
    label: int | None = None,
    class_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot the class probabilities of one example under each posterior draw.

    A dot is a draw, a bar the mean over draws: the prediction. Dots far apart are epistemic
    uncertainty, bars of the same height aleatoric.

    Parameters
    ----------
    logits
        K x N x C, float: K posterior draws, N examples, C classes.
    example
        Which of the N examples.
    label
        Its class, which is marked; None if not known.
    class_names
        C names; 0 to C - 1 without them.
    ax
        Axes to draw in; new ones if None.

    Returns
    -------
    matplotlib.axes.Axes
        The axes, with one bar a class and K dots over each.

    Raises
    ------
    ValueError
        If the logits are not valid, there is no such example or class, or names are missing.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> ax = plot_draws([[[0.0, 1.0]], [[1.0, 0.0]]], 0, label=1, class_names=["no", "yes"])
    >>> [tick.get_text() for tick in ax.get_xticklabels()]
    ['no', 'yes (label)']
    """
    array = check_logits(logits)
    num_draws, num_examples, num_classes = array.shape
    names = [*map(str, range(num_classes))] if class_names is None else [*class_names]
    labelled = range(num_classes) if label is None else [label]
    if not (0 <= example < num_examples and len(names) == num_classes > max(labelled) >= 0):
        raise ValueError(
            f"example {example}, label {label} and {len(names)} class_names do not fit logits of "
            f"{num_examples} examples and {num_classes} classes"
        )
    probs = softmax(array[:, example], axis=-1)
    if label is not None:
        names[label] += " (label)"
    with styled_axes(ax) as axes:
        bar, dot = series(0), series(2)
        bars = axes.bar(range(num_classes), probs.mean(axis=0), facecolor=(bar.color, 0.25))
        for index, patch in enumerate(bars):
            patch.set(edgecolor=bar.color, linewidth=1.2)
            if index == label:
                patch.set(hatch=bar.hatch, linewidth=2.2)
        # Side by side in the order of the draws, so that none hides another.
        offsets = np.linspace(-0.3, 0.3, num_draws) if num_draws > 1 else np.zeros(1)
        for index in range(num_classes):
            axes.plot(index + offsets, probs[:, index], ".", color=dot.color, ms=4, alpha=0.6)
        axes.set(ylabel=f"probability (bar: mean of {num_draws} draws)", ylim=(0, 1))
        axes.grid(axis="x", visible=False)
        name_ticks(axes, names)
        return axes
