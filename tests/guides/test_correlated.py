"""The guides whose entries are correlated within a layer, against the dense Gaussian."""

from __future__ import annotations

import copy
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive
from torch.distributions import MultivariateNormal, kl_divergence

from blob_pyro import load_posterior, save_posterior
from blob_pyro.guides import (
    FullCovarianceGuide,
    LoraGuide,
    LowRankPlusDiagonalGuide,
    MatrixNormalGuide,
    ScalaBLGuide,
)
from blob_pyro.guides.correlated import scale_tril
from blob_pyro.infer import ReweightedTrace_ELBO, posterior_predictive
from blob_pyro.poutine import flipout

WITH_DENSITY = [MatrixNormalGuide, LowRankPlusDiagonalGuide, FullCovarianceGuide]
GUIDES = [*WITH_DENSITY, ScalaBLGuide]
# The others have a test of their own for what these are asked.
with_density = pytest.mark.parametrize("guide_class", WITH_DENSITY, indirect=True)


@pytest.fixture(params=GUIDES, ids=lambda guide_class: guide_class.__name__)
def guide_class(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["llama", "bert"])
def guide(request: pytest.FixtureRequest, guide_class: Any, classifier: Any) -> LoraGuide:
    """A guide in float64 over two ranks of layers, no parameter where it was initialised."""
    task_type = "CAUSAL_LM" if request.param == "llama" else "SEQ_CLS"
    return scattered(guide_class(classifier(request.param, task_type, prior_scale=0.3).double()))


def scattered(guide: LoraGuide) -> LoraGuide:
    for parameter in learned(guide).values():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return guide


def learned(guide: LoraGuide) -> dict[str, torch.nn.Parameter]:
    return {name: value for name, value in guide.named_parameters() if value.requires_grad}


def lower(root: torch.Tensor) -> torch.Tensor:
    """The Cholesky factor entry by entry."""
    factor = torch.zeros_like(root)
    for i in range(len(root)):
        for j in range(i + 1):
            factor[i, j] = root[i, i] ** 2 * (1.0 if i == j else root[i, j])
    return factor


@torch.no_grad()
def covariance_of(guide: Any, name: str) -> torch.Tensor:
    """The covariance of the entries of one layer, row after row, from the parameters alone."""
    if isinstance(guide, MatrixNormalGuide):
        rows, columns = lower(guide.row_root[name]), lower(guide.col_root[name])
        return torch.kron(rows @ rows.T, columns @ columns.T)
    if isinstance(guide, FullCovarianceGuide):
        return lower(guide.root[name]) @ lower(guide.root[name]).T
    if isinstance(guide, ScalaBLGuide):
        left, mean = guide.U[name], guide.M[name]
        rows = [(left[:, i] @ mean) for i in range(left.shape[1])]
        directions = [
            torch.outer(left[:, i], row / row.norm()).flatten() for i, row in enumerate(rows)
        ]
        variances = guide.G[name] ** 4
        return sum(v * torch.outer(d, d) for v, d in zip(variances, directions, strict=True))
    omega = torch.diag(guide.G[name].flatten() ** 2)
    factors = guide.F[name].reshape(len(omega), -1)
    return omega @ (factors @ factors.T + torch.eye(len(omega))) @ omega


def dense(guide: Any, name: str) -> MultivariateNormal:
    """The Gaussian over the entries of one layer, row after row, from the parameters alone."""
    return MultivariateNormal(guide.M[name].detach().flatten(), covariance_of(guide, name))


def test_the_cholesky_factor_entry_by_entry() -> None:
    root = torch.randn(5, 5)
    torch.testing.assert_close(scale_tril(root), lower(root))
    torch.testing.assert_close(scale_tril(torch.stack([root, 2 * root]))[1], lower(2 * root))


@with_density
def test_the_posterior_is_the_dense_gaussian(guide: LoraGuide) -> None:
    for name, mean in guide.mean().items():
        posterior = guide.site_posterior(name)
        assert posterior.event_shape == mean.shape
        value = torch.randn_like(mean)
        torch.testing.assert_close(
            posterior.log_prob(value), dense(guide, name).log_prob(value.flatten())
        )
        torch.testing.assert_close(posterior.mean, mean)
        torch.testing.assert_close(guide.scale()[name].flatten(), dense(guide, name).stddev)
        torch.testing.assert_close(posterior.stddev, guide.scale()[name])


@with_density
def test_the_kl_is_that_of_the_dense_gaussians(guide: LoraGuide) -> None:
    expected = torch.zeros(())
    for name in guide.sites:
        q = dense(guide, name)
        identity = torch.eye(len(q.mean), dtype=torch.float64)
        expected = expected + kl_divergence(
            q, MultivariateNormal(torch.zeros_like(q.mean), 0.3**2 * identity)
        )
    assert guide.kl().dtype == torch.float64
    torch.testing.assert_close(guide.kl(), expected, atol=1e-9, rtol=0)
    guide.kl().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in guide.parameters())


def test_weight_moments_are_those_of_the_dense_gaussian(guide: LoraGuide) -> None:
    for name, site in guide.sites.items():
        B, covariance = site.lora_B.detach(), covariance_of(guide, name)
        columns = site.projection.in_features
        linear = site.scaling * torch.kron(B, torch.eye(columns, dtype=B.dtype))
        mean, deviation = guide.weight_moments(name)
        torch.testing.assert_close(mean.flatten(), linear @ guide.mean()[name].flatten())
        covariance = linear @ covariance @ linear.T
        torch.testing.assert_close(deviation.flatten().square(), covariance.diagonal())


def test_draws_have_the_weight_moments(guide: LoraGuide, z_score: Any) -> None:
    # 2 x 256 entries of one layer's update from 3000 draws within 4.5 standard errors, for 8
    # guides: fails less than 1 seed in 30.
    pyro.set_rng_seed(1)
    name, site = next(iter(guide.sites.items()))
    with torch.no_grad(), pyro.plate("draws", 3000, dim=-2):
        sample = site.scaling * site.lora_B @ guide()[name].squeeze(1)
    mean, deviation = guide.weight_moments(name)
    assert z_score(sample, mean) < 4.5
    assert z_score((sample - mean).square(), deviation.square()) < 4.5
    # The correlations within a column matter: without them it is another number.
    independent = (site.scaling * site.lora_B).square() @ guide.scale()[name].square()
    assert z_score((sample - mean).square(), independent.detach()) > 4.5


@with_density
@pytest.mark.parametrize("init_scale", [0.0025, 0.25])
def test_the_scale_starts_where_that_of_the_paper_does(
    init_scale: float, guide_class: Any, classifier: Any
) -> None:
    guide = guide_class(classifier("llama").double(), init_scale=init_scale)
    for name, scale in guide.scale().items():
        q = dense(guide, name)
        if guide_class is LowRankPlusDiagonalGuide:
            # The factors, 0.01 times standard normal numbers, add a hair.
            assert init_scale / 2 <= scale.min() < scale.max() <= 1.002 * init_scale
        else:
            torch.testing.assert_close(scale, torch.full_like(scale, init_scale))
        correlation = q.covariance_matrix / torch.outer(q.stddev, q.stddev)
        # Sums of 4 products of two such numbers: 0.002 is more than 10 standard deviations.
        assert (correlation - torch.eye(len(correlation))).abs().max() < 2e-3
    assert guide_class(guide.model).init_scale == 0.0025


@pytest.mark.parametrize("init_scale", [0.0, -0.05, float("nan"), float("inf")])
def test_init_scale_is_positive(init_scale: float, guide_class: Any, classifier: Any) -> None:
    with pytest.raises(ValueError, match=rf"init_scale={init_scale} must be positive"):
        guide_class(classifier("llama"), init_scale=init_scale)


def test_config_makes_the_same_guide(guide_class: Any, classifier: Any) -> None:
    model = classifier("llama")
    guide = guide_class(model, init_scale=0.01)
    again = guide_class(model, **guide.config())
    assert again.config() == guide.config()
    assert {name: value.shape for name, value in again.state_dict().items()} == {
        name: value.shape for name, value in guide.state_dict().items()
    }


def test_the_parameters_are_stated_and_the_draws_follow_a_plate(
    guide: LoraGuide, token_batch: Any
) -> None:
    trace = poutine.trace(guide).get_trace(**token_batch())
    stated = {trace.nodes[name]["value"].unconstrained() for name in trace.param_nodes}
    assert stated == {*learned(guide).values()}
    with pyro.plate("draws", 5, dim=-2):
        draws = guide()
    assert {name: draw.shape for name, draw in draws.items()} == {
        name: (5, 1, *mean.shape) for name, mean in guide.mean().items()
    }


def test_flipout_is_refused(guide: LoraGuide, token_batch: Any) -> None:
    elbo = ReweightedTrace_ELBO(1)
    with (
        flipout(),
        pytest.raises(ValueError, match=r"flipout: no centre is known for site 'base_model"),
    ):
        elbo.loss(guide.model, guide, **token_batch())


@pytest.mark.parametrize("vectorize", [False, True])
def test_svi_learns(vectorize: bool, guide: LoraGuide, token_batch: Any) -> None:
    model, batch = guide.model, token_batch(6)
    elbo = ReweightedTrace_ELBO(
        1, kl_scale=0.01, num_particles=3, vectorize_particles=vectorize, per_datum=True
    )
    before = copy.deepcopy(guide.state_dict())
    moving = learned(guide)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), elbo)
    losses = [svi.step(**batch) for _ in range(24)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    for name, value in guide.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in moving), name


def test_the_kl_of_the_elbo_is_closed_form_with_draws_at_once(
    guide: LoraGuide, token_batch: Any
) -> None:
    for vectorize in (False, True):
        elbo = ReweightedTrace_ELBO(1, num_particles=4, vectorize_particles=vectorize)
        elbo.loss(guide.model, guide, **token_batch())
        torch.testing.assert_close(elbo.terms.kl, guide.kl().detach())


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_and_posterior_predictive(
    parallel: bool, guide: LoraGuide, token_batch: Any
) -> None:
    batch = token_batch()
    predictive = posterior_predictive(
        guide.model, guide, [batch], 5, 3, parallel=parallel, progress=False
    )
    one_by_one = posterior_predictive(guide.model, guide, [batch], 5, 3, progress=False)
    torch.testing.assert_close(predictive, one_by_one)
    del batch["labels"]
    drawn = Predictive(
        guide.model, guide=guide, num_samples=5, return_sites=("logits",), parallel=parallel
    )
    assert drawn(**batch)["logits"].shape == (5, 4, 3)


def test_a_saved_posterior_comes_back(
    guide_class: Any, classifier: Any, token_batch: Any, tmp_path: Any
) -> None:
    model = classifier("bert", "SEQ_CLS")
    base = copy.deepcopy(model.network).unload()
    guide = scattered(guide_class(model))
    save_posterior(tmp_path / "p", model, guide)
    _, loaded = load_posterior(tmp_path / "p", base)
    assert type(loaded) is guide_class
    assert loaded.config() == guide.config()
    assert loaded.state_dict().keys() == guide.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[n], v) for n, v in guide.state_dict().items())


def test_it_goes_to_another_dtype_and_device(guide: LoraGuide, token_batch: Any) -> None:
    kl = guide.kl().item()
    guide.float()
    assert {draw.dtype for draw in guide().values()} == {torch.float32}
    guide.model.float()
    assert abs(guide.kl().item() - kl) < 1e-4 * kl
    # The meta device stands for any other: shapes and devices without arithmetic.
    posterior = guide.to("meta").site_posterior(next(iter(guide.sites)))
    assert posterior.mean.device.type == posterior.rsample().device.type == "meta"


def test_a_layer_that_is_too_large_is_refused(classifier: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("blob_pyro.guides.correlated._MOST_ENTRIES", 31)
    with pytest.raises(
        ValueError, match=r"site 'base_model.*' has 32 entries, more than the 31.*use LowR"
    ):
        FullCovarianceGuide(classifier("llama"))
