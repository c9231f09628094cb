import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import StepPatch

from blob_pyro.diagnostics import (
    expected_calibration_error,
    plot_reliability,
    plot_risk_coverage,
    reliability_curve,
    risk_coverage,
    summarize,
)
from blob_pyro.diagnostics.plots.style import series


def random_task(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(scale=2.0, size=(3, 80, 4)), rng.integers(4, size=80)


def legend_texts(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def test_points_bars_and_diagonal_are_the_curve() -> None:
    logits, labels = random_task()
    curve = reliability_curve(logits, labels, num_bins=10)
    ax = plot_reliability(logits, labels, num_bins=10)

    trusted, few = curve.counts >= 5, (curve.counts > 0) & (curve.counts < 5)
    assert trusted.any()
    assert few.any()
    for used, (points, _, (bars,)) in zip((trusted, few), ax.containers, strict=True):
        np.testing.assert_allclose(points.get_xdata(), curve.confidence[used])
        np.testing.assert_allclose(points.get_ydata(), curve.accuracy[used])
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends, np.stack([curve.lower[used], curve.upper[used]], axis=1))
    assert ax.containers[0][0].get_linestyle() != "None"
    assert ax.containers[1][0].get_linestyle() == "None"
    diagonals = [line for line in ax.lines if list(line.get_xdata()) == [0, 1]]
    assert any(list(line.get_ydata()) == [0, 1] for line in diagonals)


def test_strip_holds_the_share_of_each_bin() -> None:
    logits, labels = random_task()
    strip = plot_reliability(logits, labels, num_bins=10).child_axes[0]
    counts = reliability_curve(logits, labels, num_bins=10).counts
    values, edges, _ = next(p for p in strip.patches if isinstance(p, StepPatch)).get_data()
    np.testing.assert_allclose(values, counts / 80)
    np.testing.assert_allclose(edges, np.linspace(0, 1, 11))
    assert strip.get_ylim()[1] >= values.max()
    assert [tick.get_text() for tick in strip.get_yticklabels()] == [f"{values.max():.0%}"]
    assert [text.get_text() for text in strip.texts] == ["share of examples"]


def test_strip_stays_below_zero_accuracy() -> None:
    ax = plot_reliability(*random_task())
    ax.figure.canvas.draw()
    top = ax.child_axes[0].get_position().y1
    zero = ax.figure.transFigure.inverted().transform(ax.transData.transform((0, 0)))[1]
    assert top < zero
    assert min(ax.get_yticks()) == 0


def test_axes_say_what_they_show() -> None:
    ax = plot_reliability(*random_task())
    assert ax.get_xlabel() == "confidence (probability of the predicted class)"
    assert ax.get_ylabel() == "observed accuracy"


def test_legend_gives_the_calibration_error() -> None:
    # Sure and wrong, unsure and right: one bin averages away what fifteen bins show.
    logits, labels = np.array([[[0.0, 3.0], [0.0, 0.1]]]), np.array([0, 1])
    one, default = (expected_calibration_error(logits, labels, bins) for bins in (1, 15))
    assert default > one + 0.1
    assert default == summarize(logits, labels)["ece"]
    assert legend_texts(plot_reliability(logits, labels)) == [f"ECE {default:.3f}"]
    named = plot_reliability(logits, labels, num_bins=1, label="BLoB")
    assert legend_texts(named) == [f"BLoB (ECE {one:.3f})"]


def test_methods_on_one_axes_differ_and_share_the_strip() -> None:
    ax = plt.subplots()[1]
    for index in range(3):
        assert plot_reliability(*random_task(index), label=f"m{index}", ax=ax) is ax
    assert [text.split()[0] for text in legend_texts(ax)] == ["m0", "m1", "m2"]
    assert len(ax.child_axes) == 1
    # Diagonal, zero, and for each method a line with two caps and the points off the line.
    assert len(ax.lines) == 2 + 3 * 4
    lines = [container[0] for container in ax.containers[::2]]
    for index, line in enumerate(lines):
        look = series(index)
        assert to_hex(line.get_color()).upper() == look.color
        assert line.get_marker() == look.marker
    assert len({line.get_linestyle() for line in lines}) == 3
    strip = ax.child_axes[0]
    tallest = max(patch.get_data().values.max() for patch in strip.patches)
    assert strip.get_ylim()[1] >= tallest


def test_other_insets_are_left_alone() -> None:
    ax = plt.subplots()[1]
    inset = ax.inset_axes((0.5, 0.5, 0.2, 0.2))
    plot_reliability(*random_task(), ax=ax)
    assert not inset.patches
    assert len(ax.child_axes) == 2


def test_certain_and_right_draws_without_warning() -> None:
    ax = plot_reliability([[[0.0, 900.0]] * 3], [1, 1, 1])
    assert legend_texts(ax) == ["ECE 0.000"]


def test_risks_of_methods_share_axes_and_differ() -> None:
    ax = plt.subplots()[1]
    for index in range(2):
        assert plot_risk_coverage(*random_task(index), label=f"m{index}", ax=ax) is ax
    areas = [risk_coverage(*random_task(index)).area for index in range(2)]
    assert legend_texts(ax) == [f"m{index} (AURC {area:.3f})" for index, area in enumerate(areas)]
    for index, line in enumerate(ax.lines):
        np.testing.assert_allclose(line.get_ydata(), risk_coverage(*random_task(index)).risk)
        assert to_hex(line.get_color()).upper() == series(index).color
        assert line.get_marker() == series(index).marker
    assert len(ax.collections) == 2
    assert ax.get_xlabel() == "coverage (share of examples answered)"
    assert ax.get_ylabel() == "risk (share of errors)"
