from __future__ import annotations

import math
from typing import Any, get_args

import pyro
import pytest
import torch

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.guides.low_rank_gaussian import Parameterization

# From G to the scale, each written out.
SCALES: dict[str, Any] = {
    "square": lambda G: G * G,
    "softplus": lambda G: (1 + G.exp()).log(),
    "exp": lambda G: math.e**G,
}


@pytest.mark.parametrize("init_scale", [0.0025, 0.25])
def test_the_scale_starts_as_in_the_paper(init_scale: float, classifier: Any, z_score: Any) -> None:
    guide = LowRankGaussianGuide(classifier("llama"), init_scale)
    roots = torch.cat([root.detach().flatten() for root in guide.G.parameters()])
    low, high = math.sqrt(init_scale / 2), math.sqrt(init_scale)
    assert low <= roots.min() < roots.max() <= high
    # Uniform: 128 entries, mean and variance within 4 standard errors; fails 1 seed in 8000.
    centred = (roots - (low + high) / 2)[:, None]
    assert z_score(centred, 0.0) < 4
    assert z_score(centred.square(), (high - low) ** 2 / 12) < 4
    # The default is the paper's.
    assert LowRankGaussianGuide(classifier("llama")).init_scale == 0.0025


def test_the_scale_is_the_square(classifier: Any) -> None:
    guide = LowRankGaussianGuide(classifier("llama"))
    name = next(iter(guide.sites))
    guide.G[name].data.copy_(torch.linspace(-2, 2, 32).reshape(2, 16))
    expected = torch.linspace(-2, 2, 32).reshape(2, 16) ** 2
    torch.testing.assert_close(guide.scale()[name], expected)
    torch.testing.assert_close(guide.site_posterior(name).stddev, expected)


def test_draws_follow_mean_and_scale(classifier: Any, z_score: Any) -> None:
    # 2 x 32 entries from 2000 draws within 4.5 standard errors: fails 1 seed in 2000.
    guide = LowRankGaussianGuide(classifier("llama"), init_scale=0.49)
    name = next(iter(guide.sites))
    draws = torch.stack([guide()[name].detach() for _ in range(2000)])
    assert z_score(draws, guide.mean()[name]) < 4.5
    assert z_score((draws - guide.mean()[name]).square(), guide.scale()[name].square()) < 4.5


def test_config_makes_the_same_guide(classifier: Any) -> None:
    model = classifier("llama")
    guide = LowRankGaussianGuide(model, init_scale=0.01)
    assert guide.config() == {"init_scale": 0.01, "parameterization": "square"}
    assert LowRankGaussianGuide(model, **guide.config()).config() == guide.config()


def test_every_parameterization_is_tested() -> None:
    assert set(SCALES) == set(get_args(Parameterization))


@pytest.mark.parametrize("init_scale", [0.0025, 0.25])
def test_the_parameterization_does_not_change_the_start(init_scale: float, classifier: Any) -> None:
    model = classifier("llama").double()
    scales = {}
    for parameterization in SCALES:
        pyro.set_rng_seed(4)
        guide = LowRankGaussianGuide(model, init_scale, parameterization)
        scales[parameterization] = guide.scale()
    # The roots of the one are uniform (tested above), and the others' scales are the same numbers.
    torch.testing.assert_close(scales["softplus"], scales["square"])
    torch.testing.assert_close(scales["exp"], scales["square"])


@pytest.mark.parametrize("parameterization", SCALES)
def test_the_scale_follows_from_its_parameter(parameterization: Any, classifier: Any) -> None:
    guide = LowRankGaussianGuide(classifier("llama").double(), 0.1, parameterization)
    for name, G in guide.G.items():
        G.data.uniform_(-6, 6)
        scale = guide.scale()[name]
        assert scale.min() > 0
        torch.testing.assert_close(scale, SCALES[parameterization](G.detach()))
        torch.testing.assert_close(guide.site_posterior(name).stddev, scale)


@pytest.mark.parametrize("parameterization", SCALES)
def test_gradients_flow_through_the_parameterization(
    parameterization: Any, classifier: Any
) -> None:
    guide = LowRankGaussianGuide(
        classifier("llama", prior_scale=0.3).double(), 0.5, parameterization
    )
    guide.kl().backward()
    for _, G in guide.G.items():
        root = G.detach().clone().requires_grad_()
        scale = SCALES[parameterization](root)
        # Of log(sigma_p / Omega) + Omega^2 / (2 sigma_p^2).
        expected = torch.autograd.grad(scale, root, scale.detach() / 0.3**2 - 1 / scale.detach())
        torch.testing.assert_close(G.grad, expected[0])


@pytest.mark.parametrize("parameterization", SCALES)
def test_config_keeps_the_parameterization(parameterization: Any, classifier: Any) -> None:
    model = classifier("llama")
    guide = LowRankGaussianGuide(model, 0.01, parameterization)
    again = LowRankGaussianGuide(model, **guide.config())
    again.load_state_dict(guide.state_dict())
    assert again.config() == {"init_scale": 0.01, "parameterization": parameterization}
    torch.testing.assert_close(again.scale(), guide.scale(), rtol=0, atol=0)
