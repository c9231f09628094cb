from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from blob_pyro.diagnostics import auroc, mutual_information, plot_uncertainty, predictive_entropy
from blob_pyro.diagnostics.plots.uncertainty import MEASURES


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


def test_draws_in_the_axes_given() -> None:
    ax = plt.subplots()[1]
    assert plot_uncertainty(random_logits(5, 1.0), random_logits(6, 1.0), ax=ax) is ax
    assert len(plt.get_fignums()) == 1


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


def test_unknown_measure_is_refused() -> None:
    logits = random_logits(4, 1.0)
    message = r"measure is 'variance'; wanted one of \['entropy', 'mutual_information'\]"
    with pytest.raises(ValueError, match=message):
        plot_uncertainty(logits, logits, measure="variance")  # type: ignore[arg-type]
    assert set(MEASURES) == {"entropy", "mutual_information"}


@pytest.mark.parametrize("name", ["in_logits", "out_logits"])
def test_mutual_information_of_one_draw_is_refused(name: str) -> None:
    logits = {"in_logits": random_logits(4, 1.0), "out_logits": random_logits(4, 1.0)}
    logits[name] = logits[name][:1]
    with pytest.raises(ValueError, match=f"{name} has 1 draw; wanted at least 2"):
        plot_uncertainty(**logits, measure="mutual_information")
    assert not plt.get_fignums()


def test_number_of_bins_is_checked() -> None:
    logits = random_logits(4, 1.0)
    with pytest.raises(ValueError, match="num_bins is 0; wanted"):
        plot_uncertainty(logits, logits, num_bins=0)
