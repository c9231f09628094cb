from __future__ import annotations

import pytest

from blob_pyro.benchmark import plot_methods
from blob_pyro.diagnostics.style import series

TESTED = {
    "openbookqa": {
        "mle": {"accuracy": (60.0, 1.0), "ece": (20.0, 2.0), "nll": (1.5, 0.1)},
        "blob": {"accuracy": (61.0, 3.0), "ece": (9.0, 1.0), "nll": (1.1, 0.2)},
    },
    "boolq": {
        "mle": {"accuracy": (50.0, 1.0), "ece": (30.0, 2.0), "nll": (2.5, 0.1)},
        "blob": {"accuracy": (52.0, 4.0), "ece": (19.0, 1.0), "nll": (2.1, 0.2)},
    },
}


def test_means_and_deviations_of_each_metric_stand_in_their_panel() -> None:
    figure = plot_methods("openbookqa", TESTED)
    for metric, axes in zip(("accuracy", "ece", "nll"), figure.axes, strict=True):
        for number, container in enumerate(axes.containers):
            points, _, (bars,) = container.lines  # type: ignore[attr-defined]
            method = ("mle", "blob")[number]
            assert container.get_label() == method
            assert points.get_color() == series(number).color
            wanted = [rows[method][metric] for rows in TESTED.values()]
            assert list(points.get_ydata()) == [mean for mean, _ in wanted]
            halves = [float(end[1, 1] - end[0, 1]) / 2 for end in bars.get_segments()]
            assert halves == pytest.approx([deviation for _, deviation in wanted])


def test_methods_stand_side_by_side_and_data_sets_are_named() -> None:
    figure = plot_methods("openbookqa", TESTED)
    axes = figure.axes[0]
    places = [container.lines[0].get_xdata()[0] for container in axes.containers]  # type: ignore[attr-defined]
    assert places == sorted(set(places))
    names = [text.get_text() for text in axes.get_xticklabels()]
    assert names == ["openbookqa", "boolq\n(out)"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mle", "blob"]


def test_no_two_of_many_methods_look_alike() -> None:
    row = TESTED["openbookqa"]["mle"]
    figure = plot_methods("openbookqa", {"openbookqa": {f"method {i}": row for i in range(14)}})
    points = [container.lines[0] for container in figure.axes[0].containers]  # type: ignore[attr-defined]
    assert len({(one.get_marker(), one.get_fillstyle()) for one in points}) == 14
