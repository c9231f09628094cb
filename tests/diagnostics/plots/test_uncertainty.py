from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from blob_pyro.diagnostics import (
    auroc,
    expected_entropy,
    mutual_information,
    plot_decomposition,
    plot_draws,
    plot_uncertainty,
    predictive_entropy,
)


def random_logits(num_examples: int, scale: float, num_draws: int = 4) -> np.ndarray:
    rng = np.random.default_rng(num_examples)
    return scale * rng.normal(size=(num_draws, num_examples, 3))


@pytest.mark.parametrize(
    ("measure", "score", "axis_label"),
    [
        ("entropy", predictive_entropy, "predictive entropy (nats)"),
        ("mutual_information", mutual_information, "mutual information (nats)"),
    ],
)
def test_histograms_labels_and_auroc(measure: Any, score: Any, axis_label: str) -> None:
    inside, outside = random_logits(60, 4.0), random_logits(35, 1.0)
    ax = plot_uncertainty(inside, outside, measure=measure, num_bins=12)
    assert ax.get_xlabel() == axis_label
    assert ax.get_ylabel() == "share of examples"

    legend = ax.get_legend()
    assert legend is not None
    area = auroc(score(inside), score(outside))
    assert legend.get_title().get_text() == f"AUROC {area:.3f}"
    assert [text.get_text() for text in legend.get_texts()] == [
        "in distribution (N = 60)",
        "out of distribution (N = 35)",
    ]

    assert len(ax.patches) == 2
    edges = np.linspace(0, max(score(inside).max(), score(outside).max()), 13)
    for patch, logits in zip(ax.patches, (inside, outside), strict=True):
        counts = np.histogram(score(logits), edges)[0]
        heights = patch.get_path().vertices[1 : 2 * 12 + 1 : 2, 1]
        np.testing.assert_allclose(heights, counts / len(score(logits)), atol=1e-12)
    assert ax.patches[0].get_hatch() != ax.patches[1].get_hatch()
    assert ax.patches[0].get_linestyle() != ax.patches[1].get_linestyle()


def test_legend_stands_above_the_bars() -> None:
    ax = plot_uncertainty(random_logits(60, 4.0), random_logits(35, 1.0))
    ax.figure.canvas.draw()
    legend = ax.get_legend()
    assert legend is not None
    bottom = ax.transData.inverted().transform(legend.get_window_extent())[0, 1]
    assert bottom > ax.dataLim.y1


def test_certain_predictions_have_a_range_to_be_drawn_in() -> None:
    sure = np.array([[[0.0, 9000.0]] * 4])
    ax = plot_uncertainty(sure, sure)
    assert ax.get_xlim() == (0.0, 1.0)


@pytest.mark.parametrize("name", ["in_logits", "out_logits"])
def test_mutual_information_of_one_draw_is_refused(name: str) -> None:
    logits = {"in_logits": random_logits(4, 1.0), "out_logits": random_logits(4, 1.0)}
    logits[name] = logits[name][:1]
    with pytest.raises(ValueError, match="one draw has a mutual information of 0"):
        plot_uncertainty(**logits, measure="mutual_information")
    assert not plt.get_fignums()


def task(seed: int = 0, num_examples: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return 2.0 * rng.normal(size=(4, num_examples, 3)), rng.integers(3, size=num_examples)


def test_parts_add_up_to_the_entropy_of_each_example() -> None:
    logits, labels = task()
    ax = plot_decomposition(logits, labels)
    filled = [patch.get_data() for patch in ax.patches if patch.get_fill()]
    order = np.argsort(predictive_entropy(logits))
    epistemic, aleatoric = filled
    np.testing.assert_allclose(epistemic.values, predictive_entropy(logits)[order])
    np.testing.assert_allclose(epistemic.baseline, aleatoric.values)
    np.testing.assert_allclose(aleatoric.values, expected_entropy(logits)[order])
    wrong = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).mean(0).argmax(1) != labels
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), np.flatnonzero(wrong[order]) + 0.5)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        f"epistemic (mean {mutual_information(logits).mean():.3f})",
        f"aleatoric (mean {expected_entropy(logits).mean():.3f})",
        f"wrong ({wrong.sum()})",
    ]
    assert ax.get_ylabel() == "uncertainty (nats)"


def test_no_labels_no_marks_and_certain_examples_have_a_range() -> None:
    ax = plot_decomposition(np.array([[[0.0, 900.0]] * 3]))
    assert not ax.lines
    assert ax.get_ylim() == (0.0, 1.0)


def test_bars_are_means_and_dots_are_draws() -> None:
    logits, _ = task()
    ax = plot_draws(logits, 5, label=2, class_names=["a", "b", "c"])
    probs = np.exp(logits[:, 5]) / np.exp(logits[:, 5]).sum(-1, keepdims=True)
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], probs.mean(0))
    for index, line in enumerate(ax.lines):
        np.testing.assert_allclose(line.get_ydata(), probs[:, index])
        assert np.abs(line.get_xdata() - index).max() < 0.4
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["a", "b", "c (label)"]
    assert [bool(bar.get_hatch()) for bar in ax.patches] == [False, False, True]
    assert ax.get_ylabel() == "probability (bar: mean of 4 draws)"


def test_examples_and_classes_out_of_range_are_refused() -> None:
    logits, _ = task()
    for example, label, names in [(60, None, None), (-1, None, None), (0, 3, None), (0, 0, ["a"])]:
        with pytest.raises(ValueError, match="do not fit logits of 60 examples and 3 classes"):
            plot_draws(logits, example, label=label, class_names=names)
    assert not plt.get_fignums()


def test_axes_given_are_drawn_in() -> None:
    ax, logits = plt.subplots()[1], task()[0]
    for plot in (plot_decomposition(logits, ax=ax), plot_draws(logits, 0, ax=ax)):
        assert plot is ax
    assert plot_uncertainty(logits, logits, ax=ax) is ax
    assert len(plt.get_fignums()) == 1
