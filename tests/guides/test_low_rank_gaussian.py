from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from blob_pyro.guides import LowRankGaussianGuide


@pytest.mark.parametrize("init_scale", [0.05, 0.5])
def test_the_scale_starts_as_in_the_paper(init_scale: float, classifier: Any, z_score: Any) -> None:
    guide = LowRankGaussianGuide(classifier("llama"), init_scale)
    roots = torch.cat([root.detach().flatten() for root in guide.G.parameters()])
    low, high = init_scale / math.sqrt(2), init_scale
    assert low <= roots.min() < roots.max() <= high
    # Uniform: 128 entries, mean and variance within 4 standard errors; fails 1 seed in 8000.
    centred = (roots - (low + high) / 2)[:, None]
    assert z_score(centred, 0.0) < 4
    assert z_score(centred.square(), (high - low) ** 2 / 12) < 4
    # The default is the paper's.
    assert LowRankGaussianGuide(classifier("llama")).init_scale == 0.05


def test_the_scale_is_the_square(classifier: Any) -> None:
    guide = LowRankGaussianGuide(classifier("llama"))
    name = next(iter(guide.sites))
    guide.G[name].data.copy_(torch.linspace(-2, 2, 32).reshape(2, 16))
    expected = torch.linspace(-2, 2, 32).reshape(2, 16) ** 2
    torch.testing.assert_close(guide.scale()[name], expected)
    torch.testing.assert_close(guide.site_posterior(name).stddev, expected)


def test_draws_follow_mean_and_scale(classifier: Any, z_score: Any) -> None:
    # 2 x 32 entries from 2000 draws within 4.5 standard errors: fails 1 seed in 2000.
    guide = LowRankGaussianGuide(classifier("llama"), init_scale=0.7)
    name = next(iter(guide.sites))
    draws = torch.stack([guide()[name].detach() for _ in range(2000)])
    assert z_score(draws, guide.mean()[name]) < 4.5
    assert z_score((draws - guide.mean()[name]).square(), guide.scale()[name].square()) < 4.5


@pytest.mark.parametrize("init_scale", [0.0, -0.05, float("nan"), float("inf")])
def test_init_scale_is_positive(init_scale: float, classifier: Any) -> None:
    with pytest.raises(ValueError, match=rf"init_scale={init_scale} must be positive.*uses 0.05"):
        LowRankGaussianGuide(classifier("llama"), init_scale)


def test_config_makes_the_same_guide(classifier: Any) -> None:
    model = classifier("llama")
    guide = LowRankGaussianGuide(model, init_scale=0.1)
    assert guide.config() == {"init_scale": 0.1, "parameterization": "square"}
    assert LowRankGaussianGuide(model, **guide.config()).config() == guide.config()
