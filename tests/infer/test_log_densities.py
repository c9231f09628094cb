from __future__ import annotations

from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from torch.distributions import HalfNormal, LogNormal, MultivariateNormal, Normal

from blob_pyro.diagnostics import to_arviz
from blob_pyro.guides import FullCovarianceGuide, LowRankGaussianGuide, PointEstimateGuide
from blob_pyro.infer import log_densities, posterior_draws, posterior_predictive
from blob_pyro.lora import HierarchicalNormalPrior
from blob_pyro.models import SequenceClassifier


def draws_of(guide: Any, num_draws: int = 3) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        draws = posterior_draws(guide, num_draws, {})
    return {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}


def test_normal_prior_and_guide_against_torch(program: Any) -> None:
    _, guide = program("bert")
    draws = draws_of(guide)
    densities = log_densities(guide, draws)
    mean, scale = guide.mean(), guide.scale()
    for name, draw in draws.items():
        log_q = Normal(mean[name], scale[name]).log_prob(draw).sum((1, 2))
        log_prior = Normal(0.0, 0.2).log_prob(draw).sum((1, 2))
        assert torch.allclose(densities["log_q"][name], log_q, rtol=1e-5)
        assert torch.allclose(densities["log_prior"][name], log_prior, rtol=1e-5)


def test_their_mean_difference_is_the_kl(program: Any) -> None:
    _, guide = program("bert")
    densities = log_densities(guide, draws_of(guide, 2000))
    log_q, log_prior = (
        torch.stack([*densities[key].values()]).sum(0) for key in ("log_q", "log_prior")
    )
    ratio = log_q - log_prior
    # 4.5 standard errors: over all seeds it would fail for fewer than one in 10^5.
    error = float(ratio.std()) / len(ratio) ** 0.5
    assert abs(float(ratio.mean()) - float(guide.kl().detach())) < 4.5 * error


def test_chosen_sites_only_and_correlated_entries(peft_network: Any) -> None:
    model = SequenceClassifier(peft_network("bert", "SEQ_CLS"), 8)
    guide = FullCovarianceGuide(model)
    name = [*model.sites][1]
    draw = draws_of(guide)[name]
    densities = log_densities(guide, {name: draw})
    assert [*densities["log_q"]] == [name]
    base = guide.site_posterior(name).base_dist
    exact = MultivariateNormal(base.mean, scale_tril=base.scale_tril)
    assert torch.allclose(densities["log_q"][name], exact.log_prob(draw.flatten(1)), rtol=1e-5)


@pytest.mark.parametrize("share", ["model", "site"])
def test_the_prior_is_that_given_the_hyper_sites(share: Any, peft_network: Any) -> None:
    prior = HierarchicalNormalPrior(0.2, share)
    model = SequenceClassifier(peft_network("bert", "SEQ_CLS"), 8, prior=prior)
    guide = LowRankGaussianGuide(model)
    draws = draws_of(guide)
    densities = log_densities(guide, draws)
    name = next(iter(model.sites))
    hyper = (
        "prior.shared_scale" if share == "model" else f"{name.removesuffix('.weight')}.prior_scale"
    )
    scale = draws[hyper]
    exact = Normal(0.0, scale[:, None, None]).log_prob(draws[name]).sum((1, 2))
    assert torch.allclose(densities["log_prior"][name], exact, rtol=1e-5)
    assert torch.allclose(densities["log_prior"][hyper], HalfNormal(0.2).log_prob(scale))
    loc, log_scale = guide.hyper.loc[hyper], guide.hyper.log_scale[hyper]
    log_normal = LogNormal(loc, log_scale.exp()).log_prob(scale)
    assert torch.allclose(densities["log_q"][hyper], log_normal.detach(), rtol=1e-5)


def test_nobody_notices(program: Any) -> None:
    _, guide = program("bert")
    draws = draws_of(guide)
    state = torch.get_rng_state()
    with poutine.trace() as outer:
        log_densities(guide, draws)
    assert torch.equal(torch.get_rng_state(), state)
    assert not outer.trace.nodes
    assert not pyro.get_param_store().keys()


def test_what_has_no_density_is_refused(program: Any) -> None:
    model, guide = program("bert")
    name = next(iter(model.sites))
    draw = draws_of(guide)[name]
    with pytest.raises(ValueError, match=r"draws: the guide has no site 'q' but \['base_model"):
        log_densities(guide, {"q": draw})
    with pytest.raises(
        ValueError, match=r"have the shape \(2, 16\); wanted K x \(2, 16\), as post"
    ):
        log_densities(guide, {name: draw[0]})
    with pytest.raises(
        ValueError, match=r"PointEstimateGuide has points for site .*, which have no"
    ):
        log_densities(PointEstimateGuide(model), {name: draw})


def test_missing_hyper_sites_are_refused(peft_network: Any) -> None:
    prior = HierarchicalNormalPrior(0.2)
    model = SequenceClassifier(peft_network("bert", "SEQ_CLS"), 8, prior=prior)
    guide = LowRankGaussianGuide(model)
    name = next(iter(model.sites))
    with pytest.raises(ValueError, match=r"draws lack the sites \['prior.shared_scale'\]"):
        log_densities(guide, {name: draws_of(guide)[name]})


def test_a_fit_and_its_prior_become_one_arviz_object(program: Any, token_batch: Any) -> None:
    model, guide = program("bert")
    sites = [*model.sites]

    def predict(program_of_latents: Any) -> Any:
        return posterior_predictive(
            model, program_of_latents, [token_batch(4)], 30, 0, return_sites=sites, progress=False
        )

    predictive, prior = predict(guide), predict(lambda **batch: model.sample_latents())
    draws, prior_draws = ({site: each[site] for site in sites} for each in (predictive, prior))
    data = to_arviz(
        predictive,
        posterior=draws,
        **log_densities(guide, draws),
        prior=prior_draws,
        prior_predictive=prior,
        by_layer=True,
    )
    query = "bert.encoder.layer.attention.self.query"
    assert data.posterior[query].dims == ("chain", "draw", "layer", "rank", "in_feature")
    assert data.log_prior[query].dims == ("chain", "draw", "layer")
    # 4.5 standard errors of a standard deviation, from 2 x 30 x 2 x 16 draws of N(0, 0.2).
    assert abs(float(data.prior[query].std()) - 0.2) < 4.5 * 0.2 / (2 * 1920) ** 0.5
