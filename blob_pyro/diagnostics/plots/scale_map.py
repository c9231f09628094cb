"""Where the data spoke: how much narrower than the prior each layer's posterior has become."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from blob_pyro.diagnostics.arrays import FloatArray, Values, as_numpy
from blob_pyro.diagnostics.layer_path import layer_path
from blob_pyro.diagnostics.plots.style import axes_or_new, plot_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NUMBERS = 80  # cells; in more of them a number can no longer be read
# The ratio of the two ends of the colours: what differs by less looks alike.
LEAST_RANGE = 2.0


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
            raise ValueError(
                f"site {site!r} has a scale of {min(float(scale.min()), prior)}; wanted posterior "
                "and prior scales above 0. A point estimate has no posterior to compare."
            )
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
    ratios = scale_ratios(scales, prior_scale)
    rows, columns, image = _grid(ratios)
    with plot_style():
        import matplotlib as mpl

        ax = axes_or_new(ax)
        ax.grid(False)
        # Seen where a layer lacks a module; a plain grey would be a ratio in print.
        ax.patch.set(facecolor="white", edgecolor="0.7", hatch="////")
        most = np.nanmax(image)
        least = min(np.nanmin(image), most / LEAST_RANGE)
        picture = ax.imshow(
            image, origin="lower", aspect="auto", cmap="cividis", vmin=least, vmax=most
        )
        ax.set(xticks=range(len(columns)), xticklabels=columns, ylabel="layer", xlabel="module")
        ax.set(yticks=range(len(rows)), yticklabels=rows)
        if len(rows) > 16:
            ax.set_yticks(range(0, len(rows), 5), rows[::5])
        if max(map(len, columns)) * len(columns) > 40:
            mpl.pyplot.setp(ax.get_xticklabels(), rotation=30, ha="right", rotation_mode="anchor")
        if image.size <= MOST_NUMBERS:
            _write_numbers(ax, image, (least + most) / 2)
        assert ax.figure is not None
        ax.figure.colorbar(picture, ax=ax, label="posterior scale / prior scale")
    return ax


def _grid(ratios: Mapping[str, float]) -> tuple[list[str], list[str], FloatArray]:
    places = {site: layer_path(site) for site in ratios}
    layers = sorted({layer for _, layer in places.values() if layer is not None})
    outside = ["no layer"] if any(layer is None for _, layer in places.values()) else []
    rows = [*map(str, layers), *outside]
    modules = [*dict.fromkeys(module for module, _ in places.values())]
    layered = {module for module, layer in places.values() if layer is not None}
    image = np.full((len(rows), len(modules)), np.nan)
    for site, (module, layer) in places.items():
        row = len(layers) if layer is None else layers.index(layer)
        image[row, modules.index(module)] = ratios[site]
    return rows, _short_names(modules, layered), image


def _short_names(modules: list[str], layered: set[str]) -> list[str]:
    """Cut what all paths of the layers start with."""
    paths = [module.split(".") for module in layered]
    shared = 0
    while all(len(path) > shared + 1 for path in paths) and len({p[shared] for p in paths}) == 1:
        shared += 1
    return [
        ".".join(module.split(".")[shared:]) if module in layered else module for module in modules
    ]


def _write_numbers(ax: Axes, image: FloatArray, middle: float) -> None:
    for (row, column), ratio in np.ndenumerate(image):
        if not np.isnan(ratio):
            color = "white" if ratio < middle else "black"
            ax.text(column, row, f"{ratio:.2f}", ha="center", va="center", color=color, fontsize=8)
