from __future__ import annotations

import pytest

from blob_pyro.benchmark import plot_methods
from blob_pyro.diagnostics.plots.style import series

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
        assert len(axes.containers) == len(TESTED)
        for number, (container, rows) in enumerate(
            zip(axes.containers, TESTED.values(), strict=True)
        ):
            points, _, (bars,) = container.lines  # type: ignore[attr-defined]
            assert points.get_color() == series(number).color
            wanted = [rows[method][metric] for method in ("mle", "blob")]
            assert list(points.get_xdata()) == [mean for mean, _ in wanted]
            halves = [float(end[1, 0] - end[0, 0]) / 2 for end in bars.get_segments()]
            assert halves == pytest.approx([deviation for _, deviation in wanted])


def test_each_method_is_a_row_from_the_top_with_its_data_sets_below_each_other() -> None:
    figure = plot_methods("openbookqa", TESTED)
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["mle", "blob"]
    bottom, top = axes.get_ylim()
    assert bottom > top
    places = [container.lines[0].get_ydata() for container in axes.containers]  # type: ignore[attr-defined]
    for (first, second), tick in zip(zip(*places, strict=True), (0, 1), strict=True):
        assert tick - 0.5 < first < second < tick + 0.5
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["openbookqa", "boolq (out)"]


@pytest.mark.parametrize("count", [1, 30])
def test_names_of_methods_do_not_touch_each_other(count: int) -> None:
    row = TESTED["openbookqa"]["mle"]
    figure = plot_methods("openbookqa", {"openbookqa": {f"m{i}": row for i in range(count)}})
    figure.canvas.draw()
    axes = figure.axes[0]
    name = axes.get_yticklabels()[0].get_window_extent()
    assert axes.bbox.height / count > 1.1 * name.height
