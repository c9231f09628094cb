"""Pictures of a benchmark: every method on every data set, in and out of distribution."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from blob_pyro.benchmark.tables import COLUMNS, Rows
from blob_pyro.diagnostics import plot_style
from blob_pyro.diagnostics.plots.style import series

METRICS = ("accuracy", "ece", "nll")


def plot_methods(task: str, tested: Mapping[str, Rows]) -> Figure:
    """Plot accuracy, ECE and NLL of all methods: a row a method, a panel a metric.

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
    >>> [axes.get_xlabel() for axes in figure.axes]
    ['ACC (%)', 'ECE (%)', 'NLL (nats)']
    """
    methods = list(next(iter(tested.values())))
    with plot_style():
        height = 1.6 + (0.14 + 0.09 * len(tested)) * len(methods)
        figure = Figure(figsize=(3.6 * len(METRICS), height), layout="constrained")
        panels: Any = figure.subplots(1, len(METRICS), sharey=True)
        for metric, axes in zip(METRICS, panels, strict=True):
            _draw_panel(axes, metric, tested)
        panels[0].set_yticks(range(len(methods)), methods)
        # Read from the top, as a table is.
        panels[0].set_ylim(len(methods) - 0.5, -0.5)
        figure.suptitle(f"trained on {task}")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return figure


def _draw_panel(axes: Axes, metric: str, tested: Mapping[str, Rows]) -> None:
    for number, (name, rows) in enumerate(tested.items()):
        look = series(number)
        # The data sets are spread over half of a method's row.
        shift = 0.5 * ((number + 0.5) / len(tested) - 0.5)
        if not all(metric in row for row in rows.values()):
            # Texts of classes that a posterior does not know have no right answers.
            continue
        means, deviations = zip(*(row[metric] for row in rows.values()), strict=True)
        style: Any = {**look.line, "linestyle": "none", "elinewidth": 1.0, "capsize": 2.0}
        axes.errorbar(
            means,
            [place + shift for place in range(len(rows))],
            xerr=deviations,
            label=name if number == 0 else f"{name} (out)",
            **style,
        )
    short, factor, more_is_better = COLUMNS[metric]
    axes.set_xlabel(f"{short} ({'%' if factor == 100 else 'nats'})")
    axes.set_title("higher is better" if more_is_better else "lower is better")
