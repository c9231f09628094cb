"""The plots by their structure: what is drawn where, and what the labels say."""

from __future__ import annotations

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from blob_pyro.diagnostics import (
    expected_entropy,
    mutual_information,
    plot_decomposition,
    plot_draws,
    plot_loss,
    plot_risk_coverage,
    plot_scale_map,
    predictive_entropy,
    risk_coverage,
    scale_ratios,
)
from blob_pyro.diagnostics.plots.style import series


def task(seed: int = 0, num_examples: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return 2.0 * rng.normal(size=(4, num_examples, 3)), rng.integers(3, size=num_examples)


def legend(ax: Axes) -> list[str]:
    box = ax.get_legend()
    assert box is not None
    return [text.get_text() for text in box.get_texts()]


# Risk against coverage.


def test_risk_against_counting() -> None:
    logits, labels = task()
    probs = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).mean(0)
    wrong = probs.argmax(1) != labels
    curve = risk_coverage(logits, labels)
    assert len(curve.risk) == 60
    for coverage, risk, threshold in zip(
        curve.coverage, curve.risk, np.sort(probs.max(1))[::-1], strict=True
    ):
        answered = probs.max(1) >= threshold
        np.testing.assert_allclose(coverage, answered.mean())
        np.testing.assert_allclose(risk, wrong[answered].mean())
    np.testing.assert_allclose(curve.area, curve.risk.mean())


def test_order_among_the_equally_sure_does_not_matter() -> None:
    logits = np.array([[[1.0, 0.0]] * 4])
    for labels in ([0, 0, 1, 1], [1, 1, 0, 0]):
        curve = risk_coverage(logits, labels)
        np.testing.assert_allclose([*curve.coverage, *curve.risk, curve.area], [1.0, 0.5, 0.5])


def test_methods_share_axes_and_differ() -> None:
    ax = plt.subplots()[1]
    for index in range(2):
        assert plot_risk_coverage(*task(index), label=f"m{index}", ax=ax) is ax
    areas = [risk_coverage(*task(index)).area for index in range(2)]
    assert legend(ax) == [f"m{index} (AURC {area:.3f})" for index, area in enumerate(areas)]
    for index, line in enumerate(ax.lines):
        np.testing.assert_allclose(line.get_ydata(), risk_coverage(*task(index)).risk)
        assert to_hex(line.get_color()).upper() == series(index).color
        assert line.get_marker() == series(index).marker
    assert len(ax.collections) == 2
    assert ax.get_xlabel() == "coverage (share of examples answered)"
    assert ax.get_ylabel() == "risk (share of errors)"


# Total uncertainty, split.


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
    assert legend(ax) == [
        f"epistemic (mean {mutual_information(logits).mean():.3f})",
        f"aleatoric (mean {expected_entropy(logits).mean():.3f})",
        f"wrong ({wrong.sum()})",
    ]
    assert ax.get_ylabel() == "uncertainty (nats)"


def test_no_labels_no_marks_and_certain_examples_have_a_range() -> None:
    ax = plot_decomposition(np.array([[[0.0, 900.0]] * 3]))
    assert not ax.lines
    assert ax.get_ylim() == (0.0, 1.0)


# Posterior scale over prior scale.


def site(layer: int, module: str) -> str:
    return f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_A.weight"


def test_ratio_is_the_loss_of_entropy() -> None:
    scale = np.random.default_rng(0).uniform(0.01, 0.2, size=(2, 5))
    ratio = scale_ratios({site(0, "q"): scale}, {site(0, "q"): 0.2})[site(0, "q")]
    # Entropy of a normal: log(scale) + (1 + log(2 pi)) / 2.
    np.testing.assert_allclose(-np.log(ratio), np.mean(np.log(0.2) - np.log(scale)))


def test_cells_are_layers_by_modules() -> None:
    scales = {site(layer, m): np.full((2, 3), 0.02 * (layer + 1)) for layer in (1, 4) for m in "qv"}
    del scales[site(4, "v")]
    scales["base_model.model.lm_head.lora_A.weight"] = np.full((2, 3), 0.2)
    ax = plot_scale_map(scales, 0.2)
    wanted = [[0.2, 0.2, np.nan], [0.5, np.nan, np.nan], [np.nan, np.nan, 1.0]]
    np.testing.assert_allclose(np.ma.filled(ax.images[0].get_array(), np.nan), wanted)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["q", "v", "lm_head"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["1", "4", "no layer"]
    assert [text.get_text() for text in ax.texts] == ["0.20", "0.20", "0.50", "1.00"]
    assert ax.images[0].get_cmap().name == "cividis"
    assert ax.figure.axes[-1].get_ylabel() == "posterior scale / prior scale"


@pytest.mark.parametrize(("factor", "share"), [(1.02, 0.04), (8.0, 1.0)])
def test_noise_is_not_stretched_over_all_colours(factor: float, share: float) -> None:
    scales = {site(layer, "q"): [[0.1 * factor ** (layer / 4)]] for layer in range(5)}
    picture = plot_scale_map(scales).images[0]
    colours = picture.norm(picture.get_array())
    assert colours.max() - colours.min() == pytest.approx(share, rel=0.05)


def test_many_cells_have_no_numbers_and_few_ticks() -> None:
    scales = {site(layer, m): [[0.1]] for layer in range(30) for m in ("q", "k", "v")}
    ax = plot_scale_map(scales)
    assert not ax.texts
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["0", "5", "10", "15", "20", "25"]


def test_scales_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"has a scale of 0.0; wanted posterior and prior scales"):
        plot_scale_map({site(0, "q"): [[0.0, 0.1]]})
    with pytest.raises(ValueError, match=r"there are no scales; wanted one site or more"):
        plot_scale_map({})
    assert not plt.get_fignums()


# Loss, NLL and KL.


def records(num_steps: int = 300, kl: float = 2000.0) -> list[SimpleNamespace]:
    return [
        SimpleNamespace(step=s, loss=3.0 + s % 2, nll=900.0 - s, kl=kl, kl_weight=0.01 * (s % 50))
        for s in range(num_steps)
    ]


def test_terms_and_the_weight_on_an_axis_of_its_own() -> None:
    ax = plot_loss(records())
    raw, smooth = ax.lines[0:6:2], ax.lines[1:6:2]
    np.testing.assert_array_equal(raw[0].get_ydata(), 900.0 - np.arange(300))
    np.testing.assert_array_equal(raw[2].get_ydata(), 3.0 + np.arange(300) % 2)
    # The mean of 3 steps before, the step, and 3 after.
    np.testing.assert_allclose(smooth[2].get_ydata()[10], 3.0 + 4 / 7)  # 7, 9, 11 and 13
    np.testing.assert_allclose(smooth[0].get_ydata()[[0, -1]], [898.5, 602.5])
    assert len({line.get_linestyle() for line in smooth}) == 3
    assert ax.get_yscale() == "log"
    right = ax.figure.axes[-1]
    assert right is not ax
    np.testing.assert_allclose(right.lines[0].get_ydata(), [r.kl_weight for r in records()])
    assert right.get_ylabel() == "KL weight"
    assert legend(ax)[-1] == "KL weight"
    assert len(legend(ax)) == 4


def test_a_kl_that_is_not_positive_can_be_shown() -> None:
    assert plot_loss(records(5, kl=-3.0)).get_yscale() == "symlog"


# Draws of one example.


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
    with pytest.raises(ValueError, match="example is 60; wanted 0 to 59"):
        plot_draws(logits, 60)
    with pytest.raises(ValueError, match="there are 3 class_names and the label is 3; wanted 3"):
        plot_draws(logits, 0, label=3)
    with pytest.raises(ValueError, match="there are 1 class_names and the label is None; wanted 3"):
        plot_draws(logits, 0, class_names=["a"])
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    "plot",
    [
        lambda ax: plot_decomposition(task()[0], ax=ax),
        lambda ax: plot_scale_map({site(0, "q"): [[0.1]]}, ax=ax),
        lambda ax: plot_loss(records(5), ax=ax),
        lambda ax: plot_draws(task()[0], 0, ax=ax),
    ],
)
def test_axes_given_are_drawn_in(plot: object) -> None:
    ax = plt.subplots()[1]
    assert plot(ax) is ax  # type: ignore[operator]
    assert len(plt.get_fignums()) == 1
