"""The joint Gaussian over all sites, against the dense one."""

from __future__ import annotations

import copy
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from torch.distributions import MultivariateNormal, kl_divergence

from blob_pyro import load_posterior, save_posterior
from blob_pyro.guides import SWAGGuide
from blob_pyro.infer import ReweightedTrace_ELBO, posterior_predictive
from blob_pyro.poutine import flipout

K = 3


def moments(guide: SWAGGuide) -> tuple[dict[str, torch.Tensor], ...]:
    means = guide.mean()
    return (
        {name: torch.randn_like(mean) for name, mean in means.items()},
        {name: 0.1 * torch.rand_like(mean) + 0.02 for name, mean in means.items()},
        {
            name: 0.3 * torch.randn_like(mean[..., None].repeat(1, 1, K))
            for name, mean in means.items()
        },
    )


def swag_guide(model: Any) -> tuple[SWAGGuide, MultivariateNormal]:
    """A guide with moments, and the dense Gaussian of SWAG's equation over all its entries."""
    guide = SWAGGuide(model, K)
    mean, variance, deviations = moments(guide)
    guide.set_moments(mean, variance, deviations)
    D = torch.cat([d.reshape(-1, K) for d in deviations.values()])
    diagonal = torch.cat([v.flatten() for v in variance.values()])
    covariance = 0.5 * torch.diag(diagonal) + D @ D.T / (2 * (K - 1))
    return guide, MultivariateNormal(torch.cat([m.flatten() for m in mean.values()]), covariance)


@pytest.fixture
def model(classifier: Any) -> Any:
    return classifier("llama", prior_scale=0.3).double()


def flat(draws: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([draw.flatten(-2) for draw in draws.values()], dim=-1)


def test_draws_have_the_covariances_between_layers(model: Any, z_score: Any) -> None:
    # 128 + 8256 means of 2000 draws within 5.5 standard errors: fails 1 seed in 2000.
    pyro.set_rng_seed(1)
    guide, dense = swag_guide(model)
    with pyro.plate("draws", 2000, dim=-2):
        draws = guide()
    assert {n: d.shape for n, d in draws.items()} == {
        n: (2000, 1, *m.shape) for n, m in guide.mean().items()
    }
    deviation = flat(draws).squeeze(1) - dense.mean
    assert z_score(deviation, 0.0) < 5.5
    products = deviation[:, :, None] * deviation[:, None, :]
    assert z_score(products, dense.covariance_matrix) < 5.5
    first = next(iter(guide.sites.values())).projection.initial_weight.numel()
    layers_alone = dense.covariance_matrix.clone()
    layers_alone[:first, first:] = 0
    assert z_score(products, layers_alone) > 5.5


def test_moments_of_a_site_are_those_of_the_dense_gaussian(model: Any) -> None:
    guide, dense = swag_guide(model)
    torch.testing.assert_close(flat(guide.mean()), dense.mean)
    torch.testing.assert_close(flat(guide.scale()), dense.stddev)
    start = 0
    for name, site in guide.sites.items():
        size = guide.M[name].numel()
        covariance = dense.covariance_matrix[start : start + size, start : start + size]
        start += size
        posterior = guide.site_posterior(name)
        torch.testing.assert_close(posterior.mean, guide.mean()[name])
        torch.testing.assert_close(posterior.stddev, guide.scale()[name])
        value = torch.randn_like(guide.M[name])
        marginal = MultivariateNormal(guide.mean()[name].flatten(), covariance)
        torch.testing.assert_close(posterior.log_prob(value), marginal.log_prob(value.flatten()))
        identity = torch.eye(site.projection.in_features, dtype=torch.float64)
        linear = site.scaling * torch.kron(site.lora_B.detach(), identity)
        variance = (linear @ covariance @ linear.T).diagonal()
        torch.testing.assert_close(guide.weight_moments(name)[1].flatten().square(), variance)


def test_the_kl_is_right_on_average(model: Any, z_score: Any) -> None:
    # One mean of 400 draws within 4.5 standard errors: fails 1 seed in 10^5.
    pyro.set_rng_seed(1)
    guide, dense = swag_guide(model)
    prior = MultivariateNormal(
        torch.zeros_like(dense.mean), 0.3**2 * torch.eye(len(dense.mean)).to(dense.mean)
    )
    sample = torch.stack([guide.kl() for _ in range(400)])
    assert z_score(sample[:, None], kl_divergence(dense, prior)) < 4.5
    # Were the layers independent, or the direction another, it would be another number.
    assert sample.std() < 0.1 * kl_divergence(dense, prior)
    trace = poutine.trace(guide).get_trace()
    joint = flat({name: trace.nodes[name]["value"] for name in guide.sites})
    density = trace.nodes["all_weights"]["fn"].log_prob(trace.nodes["all_weights"]["value"])
    torch.testing.assert_close(density, dense.log_prob(joint))


def test_without_a_path_it_is_a_point(model: Any) -> None:
    guide = SWAGGuide(model)
    for name, draw in guide().items():
        assert torch.equal(draw, guide.mean()[name])
        assert torch.equal(guide.scale()[name], torch.zeros_like(draw))
    assert not any(parameter.requires_grad for parameter in guide.parameters())


@pytest.mark.parametrize("parallel", [False, True])
def test_prediction(parallel: bool, model: Any, token_batch: Any) -> None:
    guide, _ = swag_guide(model)
    batch = token_batch()
    predictive = posterior_predictive(
        model, guide, [batch], 5, 3, parallel=parallel, progress=False
    )
    one_by_one = posterior_predictive(model, guide, [batch], 5, 3, progress=False)
    torch.testing.assert_close(predictive, one_by_one)
    assert predictive["logits"].std(0).min() > 0
    del batch["labels"]
    drawn = Predictive(
        model, guide=guide, num_samples=5, return_sites=("logits",), parallel=parallel
    )
    assert drawn(**batch)["logits"].shape == (5, 4, 3)


def test_the_elbo_takes_it_and_flipout_does_not(model: Any, token_batch: Any) -> None:
    guide, _ = swag_guide(model)
    elbo = ReweightedTrace_ELBO(1)
    assert elbo.loss(model, guide, **token_batch()) > 0
    with flipout(), pytest.raises(ValueError, match="flipout: no centre is known for site"):
        elbo.loss(model, guide, **token_batch())


def test_a_saved_posterior_comes_back(classifier: Any, tmp_path: Any) -> None:
    model = classifier("bert", "SEQ_CLS")
    base = copy.deepcopy(model.network).unload()
    guide, _ = swag_guide(model)
    save_posterior(tmp_path / "p", model, guide)
    _, loaded = load_posterior(tmp_path / "p", base)
    assert type(loaded) is SWAGGuide
    assert loaded.config() == guide.config() == {"num_deviations": K}
    assert loaded.state_dict().keys() == guide.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[n], v) for n, v in guide.state_dict().items())


def test_it_goes_to_another_device(model: Any) -> None:
    guide, _ = swag_guide(model)
    draws = guide.to("meta")()
    assert {draw.device.type for draw in draws.values()} == {"meta"}


def test_deviations_of_another_number_are_refused(model: Any) -> None:
    guide = SWAGGuide(model, K + 1)
    before = copy.deepcopy(guide.state_dict())
    with pytest.raises(ValueError, match=r"has deviations of shape \(2, 16, 3\) but num_dev"):
        guide.set_moments(*moments(guide))
    assert all(torch.equal(value, before[name]) for name, value in guide.state_dict().items())
