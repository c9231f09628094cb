"""The subspace guide: where it starts, its KL in s, and which priors it takes."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch.distributions import Normal, kl_divergence

from blob_pyro.guides import ScalaBLGuide
from blob_pyro.infer import DecoupledSVI, ReweightedTrace_ELBO
from blob_pyro.lora import HierarchicalNormalPrior
from blob_pyro.models import SequenceClassifier


@pytest.fixture
def guide(classifier: Any) -> ScalaBLGuide:
    """A guide in float64 whose V is no longer orthogonal."""
    guide = ScalaBLGuide(classifier("llama", prior_scale=0.3, r=3).double())
    for parameter in (*guide.M.parameters(), *guide.G.parameters()):
        parameter.data += 0.2 * torch.randn_like(parameter)
    return guide


def scales(guide: ScalaBLGuide, name: str) -> Normal:
    """The distribution of s, from the parameters alone."""
    mean = torch.linalg.vector_norm(guide.U[name].T @ guide.M[name], dim=1)
    return Normal(mean, guide.G[name] ** 2)


def test_it_starts_at_the_singular_value_decomposition(classifier: Any) -> None:
    guide = ScalaBLGuide(classifier("llama", r=3).double())
    for name, site in guide.sites.items():
        weight = site.projection.initial_weight
        _, singular_values, right = torch.linalg.svd(weight, full_matrices=False)
        posterior: Any = guide.site_posterior(name)
        torch.testing.assert_close(posterior.mean, weight)
        torch.testing.assert_close(posterior.coordinates.mean, singular_values)
        cosines = (posterior.right @ right.T).abs()
        torch.testing.assert_close(cosines, torch.eye(3, dtype=torch.float64))
        # About the paper's U(0.05 / sqrt 2, 0.05).
        assert 0.05 / 2 <= posterior.scale.min() <= posterior.scale.max() <= 0.05


def test_a_draw_scales_the_directions(guide: ScalaBLGuide) -> None:
    # Off the directions nothing moves, and V's rows have length 1 wherever M went.
    for name, draw in guide().items():
        rows = guide.U[name].T @ guide.M[name]
        lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        s = ((guide.U[name].T @ draw) * rows / lengths).sum(1)
        torch.testing.assert_close(draw, guide.U[name] @ torch.diag(s) @ (rows / lengths))
        assert (s - lengths[:, 0]).abs().min() > 0


def test_the_kl_is_that_of_s_from_its_prior(guide: ScalaBLGuide) -> None:
    prior = Normal(torch.zeros((), dtype=torch.float64), 0.3)
    expected = sum(kl_divergence(scales(guide, name), prior).sum() for name in guide.sites)
    torch.testing.assert_close(guide.kl(), expected, atol=1e-9, rtol=0)
    reverse = sum(kl_divergence(prior, scales(guide, name)).sum() for name in guide.sites)
    assert abs(guide.kl() - reverse) > 1
    # The mean's part is that of every other guide.
    squares = sum(mean.square().sum() for mean in guide.mean().values())
    spread = sum(
        (math.log(0.3) - scale.log() + scale.square() / (2 * 0.3**2) - 0.5).sum()
        for scale in (scales(guide, name).scale for name in guide.sites)
    )
    torch.testing.assert_close(guide.kl(), spread + squares / (2 * 0.3**2))


def test_the_gradient_of_the_kl(guide: ScalaBLGuide) -> None:
    guide.kl().backward()
    for name in guide.sites:
        mean, root = guide.M[name], guide.G[name]
        torch.testing.assert_close(mean.grad, mean.detach() / 0.3**2)
        torch.testing.assert_close(root.grad, 2 * root.detach() ** 3 / 0.3**2 - 2 / root.detach())
        assert guide.U[name].grad is None


def test_the_prior_may_be_hierarchical(peft_network: Any, token_batch: Any) -> None:
    prior = HierarchicalNormalPrior(0.3, share="site")
    model = SequenceClassifier(peft_network("bert", "SEQ_CLS"), num_data=8, prior=prior)
    guide = ScalaBLGuide(model)
    pyro.set_rng_seed(1)
    trace = poutine.trace(guide).get_trace()
    with poutine.block():
        replayed = poutine.trace(poutine.replay(model.sample_latents, trace=trace)).get_trace()
    pyro.set_rng_seed(1)
    kl = guide.kl()
    expected = torch.zeros(())
    for name in guide.sites:
        hyper = name.replace(".weight", ".prior_scale")
        sigma = trace.nodes[hyper]["value"]
        expected = expected + kl_divergence(scales(guide, name), Normal(0.0, sigma)).sum()
        for part, sign in ((trace, 1), (replayed, -1)):
            node = part.nodes[hyper]
            expected = expected + sign * node["fn"].log_prob(node["value"])
    torch.testing.assert_close(kl, expected)


def several_scales(site: Any) -> Any:
    weight = site.initial_weight
    scale = torch.linspace(0.1, 0.3, weight.shape[1]).to(weight).expand_as(weight)
    return dist.Normal(torch.zeros_like(weight), scale).to_event(2)


@pytest.mark.parametrize("case", ["several scales", "Trace_ELBO"])
def test_where_there_is_no_closed_form_it_says_so(
    case: str, peft_network: Any, classifier: Any, token_batch: Any
) -> None:
    message = r"no density over matrices.*needs ReweightedTrace_ELBO.*one scale a site"
    if case == "several scales":
        net = peft_network("bert", "SEQ_CLS")
        model = SequenceClassifier(net, num_data=8, prior=several_scales)
        elbo: Any = ReweightedTrace_ELBO(1)
    else:
        model, elbo = classifier("bert", "SEQ_CLS"), Trace_ELBO()
    guide = ScalaBLGuide(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), elbo)
    with pytest.raises(NotImplementedError, match=message):
        svi.step(**token_batch())


def test_an_adapter_without_full_rank_is_refused(peft_network: Any) -> None:
    net = peft_network("bert", "SEQ_CLS")
    weight = next(value for name, value in net.named_parameters() if "lora_A" in name)
    weight.data[1] = 2 * weight.data[0]
    model = SequenceClassifier(net, num_data=8)
    with pytest.raises(ValueError, match=r"site 'base_model.*singular values from .*; start from"):
        ScalaBLGuide(model)


def test_half_precision(classifier: Any) -> None:
    guide = ScalaBLGuide(classifier("llama").bfloat16())
    assert {draw.dtype for draw in guide().values()} == {torch.bfloat16}
    assert guide.kl().isfinite()


@pytest.mark.parametrize("scale_updates", ["kl_optim", "both"])
def test_decoupled_steps_move_it(scale_updates: Any, guide: ScalaBLGuide, token_batch: Any) -> None:
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    svi = DecoupledSVI(
        guide.model,
        guide,
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
        lambda parameters: torch.optim.SGD(parameters, lr=1e-3),
        ReweightedTrace_ELBO(1, kl_scale=0.1),
        scale_updates=scale_updates,
    )
    assert math.isfinite(svi.step(**token_batch()))
    for name, value in guide.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("U."), name
    learned = {*guide.parameters()} - {*guide.U.parameters(), *guide.M.parameters()}
    assert {*guide.scale_parameters()} == learned
