from __future__ import annotations

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes

from blob_pyro.diagnostics import plot_loss, plot_scale_map, scale_ratios


def legend(ax: Axes) -> list[str]:
    box = ax.get_legend()
    assert box is not None
    return [text.get_text() for text in box.get_texts()]


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
    with pytest.raises(ValueError, match=r"has a scale of 0.0; wanted all above 0"):
        plot_scale_map({site(0, "q"): [[0.0, 0.1]]})
    with pytest.raises(ValueError, match=r"there are no scales; wanted one site or more"):
        plot_scale_map({})
    assert not plt.get_fignums()


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


def test_axes_given_are_drawn_in() -> None:
    ax = plt.subplots()[1]
    assert plot_loss(records(5), ax=ax) is ax
    other = plt.subplots()[1]
    assert plot_scale_map({site(0, "q"): [[0.1]]}, ax=other) is other
    assert len(plt.get_fignums()) == 2
