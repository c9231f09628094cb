"""Pictures of a benchmark: every method on every data set, in and out of distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from blob_pyro.benchmark.tables import COLUMNS, Spread
from blob_pyro.diagnostics import plot_style
from blob_pyro.diagnostics.style import SERIES, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS = ("accuracy", "ece", "nll")
# Share of the room of a data set over which its methods are spread.
_SPREAD = 0.6
# Looks repeat when there are more methods; each time around, markers are filled otherwise.
_FILLS: tuple[Any, ...] = ("full", "none", "left")

Rows = Mapping[str, Mapping[str, Spread]]


def plot_methods(task: str, tested: Mapping[str, Rows]) -> Figure:
    """Plot accuracy, ECE and NLL of all methods, one panel a metric.

    Points are means over seeds, bars one standard deviation to each side.

    Parameters
    ----------
    task
        What was trained on.
    tested
        Data set to its summary, see :func:`summary`; the first one is in distribution.

    Returns
    -------
    matplotlib.figure.Figure
        Not shown; save it.

    Examples
    --------
    >>> row = {"accuracy": (60.0, 1.0), "ece": (20.0, 2.0), "nll": (1.5, 0.1)}
    >>> figure = plot_methods("openbookqa", {"openbookqa": {"mle": row, "blob": row}})
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['ACC (%)', 'ECE (%)', 'NLL (nats)']
    """
    from matplotlib.figure import Figure

    with plot_style():
        width = 3.0 + 0.9 * len(tested)
        figure = Figure(figsize=(len(METRICS) * width, 4.2), layout="constrained")
        panels: Any = figure.subplots(1, len(METRICS))
        for metric, axes in zip(METRICS, panels, strict=True):
            _draw_panel(axes, metric, tested)
        figure.suptitle(f"trained on {task}")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)))
    return figure


def _draw_panel(axes: Axes, metric: str, tested: Mapping[str, Rows]) -> None:
    methods = list(next(iter(tested.values())))
    for number, method in enumerate(methods):
        look = series(number)
        shift = _SPREAD * ((number + 0.5) / len(methods) - 0.5)
        spreads = [rows[method][metric] for rows in tested.values()]
        axes.errorbar(
            [place + shift for place in range(len(tested))],
            [mean for mean, _ in spreads],
            yerr=[deviation for _, deviation in spreads],
            color=look.color,
            marker=look.marker,
            fillstyle=_FILLS[number // len(SERIES) % len(_FILLS)],
            linestyle="none",
            elinewidth=1.0,
            capsize=2.5,
            label=method,
        )
    short, factor, more_is_better = COLUMNS[metric]
    axes.set_ylabel(f"{short} ({'%' if factor == 100 else 'nats'})")
    axes.set_title("higher is better" if more_is_better else "lower is better")
    names = [name if place == 0 else f"{name}\n(out)" for place, name in enumerate(tested)]
    axes.set_xticks(range(len(tested)), names, rotation=20)
    axes.set_xlim(-0.5, len(tested) - 0.5)
    axes.grid(axis="x", visible=False)
