"""How a fit went: its terms over the steps, and how far each layer left the prior."""

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from blob_pyro.diagnostics.layer_path import layer_path
from blob_pyro.diagnostics.loss_curve import Records, loss_curve
from blob_pyro.diagnostics.plots.style import name_ticks, series, styled_axes
from blob_pyro.diagnostics.predictive import FloatArray, Values, as_numpy

NAMES = {"nll": "NLL (nats, data set)", "kl": "KL (nats, unweighted)", "loss": "loss (descended)"}
GREY = "0.35"
MOST_NUMBERS = 80  # cells; in more of them a number can no longer be read
# The ratio of the two ends of the colours: what differs by less looks alike.
LEAST_RANGE = 2.0


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
    step, weight = curve["step"], curve["kl_weight"]
    with styled_axes(ax) as axes:
        right = axes.twinx()
        handles = []
        for index, (term, name) in enumerate(NAMES.items()):
            look = series(index)
            axes.plot(step, curve[term], color=look.color, alpha=0.2, lw=0.8)
            smooth = _running_mean(curve[term])
            handles += axes.plot(step, smooth, color=look.color, ls=look.linestyle, label=name)
        # A point estimate's "KL" may be negative, and the KL of no posterior is zero.
        positive = all((curve[term] > 0).all() for term in NAMES)
        axes.set(xlabel="step", ylabel="value of the term", yscale="log" if positive else "symlog")
        handles += right.plot(step, weight, color=GREY, lw=1.0, ls=(0, (1, 1)), label="KL weight")
        right.set_ylabel("KL weight", color=GREY)
        right.set_ylim(0, 1.15 * float(weight.max()) or 1.0)
        right.grid(False)
        right.spines["right"].set_visible(True)
        axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        return axes


def _running_mean(values: FloatArray) -> FloatArray:
    half = len(values) // 100
    padded = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (padded[high] - padded[low]) / (high - low)


def scale_ratios(
    scales: Mapping[str, Values], prior_scale: float | Mapping[str, float]
) -> dict[str, float]:
    """Compare the posterior's scale of each site with the prior's.

    ``exp mean_ij log(Omega_ij / sigma_p)``; minus its logarithm is by how many nats a weight of
    the site is better known than under the prior, on average (the loss of entropy).

    Parameters
    ----------
    scales
        Site name to posterior standard deviations, r x n, positive: ``guide.scale()``.
    prior_scale
        The prior's standard deviation, or site name to it.

    Returns
    -------
    dict
        Site name to ratio: 1 where the data said nothing, near 0 where they said much.

    Raises
    ------
    ValueError
        If there is no site, or a scale is not positive.

    Examples
    --------
    >>> scale_ratios({"layers.0.q.lora_A.weight": [[0.1, 0.1]]}, 0.2)
    {'layers.0.q.lora_A.weight': 0.5}
    """
    if not scales:
        raise ValueError("there are no scales; wanted one site or more. Pass guide.scale().")
    ratios = {}
    for site, values in scales.items():
        scale = as_numpy(values).astype(np.float64)
        prior = prior_scale[site] if isinstance(prior_scale, Mapping) else prior_scale
        if not (scale > 0).all() or not prior > 0:
            lowest = min(float(scale.min()), prior)
            raise ValueError(f"site {site!r} has a scale of {lowest}; wanted all above 0")
        ratios[site] = float(np.exp(np.log(scale / prior).mean()))
    return ratios


def plot_scale_map(
    scales: Mapping[str, Values],
    prior_scale: float | Mapping[str, float] = 0.2,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Plot the posterior's scale over the prior's by layer and module.

    The colours span a factor of two or more, so that mere noise has about one colour.

    Parameters
    ----------
    scales
        Site name to posterior standard deviations, r x n, positive: ``guide.scale()``.
    prior_scale
        The prior's standard deviation, or site name to it.
    ax
        Axes to draw in; new ones if None.

    Returns
    -------
    matplotlib.axes.Axes
        The axes, with an image of the ratios (see :func:`scale_ratios`), layers from below.

    Raises
    ------
    ValueError
        If there is no site, or a scale is not positive.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> scales = {f"layers.{i}.q.lora_A.weight": [[0.2 / (i + 1)]] for i in range(3)}
    >>> plot_scale_map(scales).images[0].get_array().round(2).tolist()
    [[1.0], [0.5], [0.33]]
    """
    rows, columns, image = _grid(scale_ratios(scales, prior_scale))
    with styled_axes(ax) as axes:
        axes.grid(False)
        # Seen where a layer lacks a module; a plain grey would be a ratio in print.
        axes.patch.set(facecolor="white", edgecolor="0.7", hatch="////")
        most = np.nanmax(image)
        least = min(np.nanmin(image), most / LEAST_RANGE)
        colors: Any = {"cmap": "cividis", "vmin": least, "vmax": most}
        picture = axes.imshow(image, origin="lower", aspect="auto", **colors)
        axes.set(xlabel="module", ylabel="layer")
        name_ticks(axes, columns)
        every = 5 if len(rows) > 16 else 1
        axes.set_yticks(range(0, len(rows), every), rows[::every])
        if image.size <= MOST_NUMBERS:
            _write_numbers(axes, image, (least + most) / 2)
        assert axes.figure is not None
        axes.figure.colorbar(picture, ax=axes, label="posterior scale / prior scale")
        return axes


def _grid(ratios: Mapping[str, float]) -> tuple[list[str], list[str], FloatArray]:
    """Lay the ratios out, layers by modules, with the names of both."""
    places = {site: layer_path(site) for site in ratios}
    # What has no number stands above the layers.
    layers = sorted({layer for _, layer in places.values()}, key=lambda n: (n is None, n))
    modules = [*dict.fromkeys(module for module, _ in places.values())]
    image = np.full((len(layers), len(modules)), np.nan)
    for site, (module, layer) in places.items():
        image[layers.index(layer), modules.index(module)] = ratios[site]
    # What the paths of all layers start with says nothing.
    layered = {module for module, layer in places.values() if layer is not None}
    parts = zip(*(module.split(".")[:-1] for module in layered), strict=False)
    shared = len([*takewhile(lambda names: len({*names}) == 1, parts)])
    short = [".".join(m.split(".")[shared:]) if m in layered else m for m in modules]
    return ["no layer" if layer is None else str(layer) for layer in layers], short, image


def _write_numbers(ax: Axes, image: FloatArray, middle: float) -> None:
    for (row, column), ratio in np.ndenumerate(image):
        if not np.isnan(ratio):
            color = "white" if ratio < middle else "black"
            ax.text(column, row, f"{ratio:.2f}", ha="center", va="center", color=color, fontsize=8)
