"""What the draws say of one example: a probability of each class under each draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

from blob_pyro.diagnostics.arrays import Values, check_logits
from blob_pyro.diagnostics.plots.style import axes_or_new, plot_style, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    if not 0 <= example < num_examples:
        raise ValueError(
            f"example is {example}; wanted 0 to {num_examples - 1}, since the logits have "
            f"{num_examples} examples."
        )
    if len(names) != num_classes or (label is not None and not 0 <= label < num_classes):
        raise ValueError(
            f"there are {len(names)} class_names and the label is {label}; wanted {num_classes} "
            f"names and a label from 0 to {num_classes - 1}, as the logits have classes."
        )
    probs = softmax(array[:, example], axis=-1)
    if label is not None:
        names[label] += " (label)"
    with plot_style():
        import matplotlib.pyplot as plt

        ax = axes_or_new(ax)
        bar, dot = series(0), series(2)
        bars = ax.bar(range(num_classes), probs.mean(axis=0), facecolor=(bar.color, 0.25))
        for index, patch in enumerate(bars):
            patch.set(edgecolor=bar.color, linewidth=1.2)
            if index == label:
                patch.set(hatch=bar.hatch, linewidth=2.2)
        # Side by side in the order of the draws, so that none hides another.
        offsets = np.linspace(-0.3, 0.3, num_draws) if num_draws > 1 else np.zeros(1)
        for index in range(num_classes):
            ax.plot(index + offsets, probs[:, index], ".", color=dot.color, ms=4, alpha=0.6)
        ax.set(xticks=range(num_classes), xticklabels=names, ylim=(0, 1))
        ax.set(ylabel=f"probability (bar: mean of {num_draws} draws)")
        ax.grid(axis="x", visible=False)
        if sum(map(len, names)) > 40:
            plt.setp(ax.get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor")
    return ax
