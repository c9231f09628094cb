from __future__ import annotations

import copy
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from torch.distributions import kl_divergence

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.lora import HierarchicalNormalPrior, NormalPrior, bayesianize, lora_sites
from blob_pyro.models import SequenceClassifier


def by_layer(site: Any) -> Any:
    scale = 0.1 if "query" in site.name else 0.7
    return dist.Normal(torch.zeros_like(site.initial_weight), scale).to_event(2)


def around_the_adapter(site: Any) -> Any:
    return dist.Laplace(site.initial_weight, 0.3).to_event(2)


@pytest.fixture
def make_model(peft_network: Any) -> Any:
    def make(prior: Any = None) -> SequenceClassifier:
        return SequenceClassifier(peft_network("bert", "SEQ_CLS"), num_data=8, prior=prior)

    return make


@pytest.mark.parametrize("prior", [by_layer, around_the_adapter])
def test_any_distribution_of_the_right_shape_is_a_prior(prior: Any, make_model: Any) -> None:
    model = make_model(prior)
    trace = poutine.trace(model.sample_latents).get_trace()
    assert list(trace.stochastic_nodes) == list(model.sites)
    for name, site in model.sites.items():
        wanted = prior(site.projection)
        value = trace.nodes[name]["value"]
        assert torch.equal(trace.nodes[name]["fn"].log_prob(value), wanted.log_prob(value))


def test_the_kl_is_that_of_each_layers_own_prior(make_model: Any) -> None:
    model = make_model(by_layer).double()
    guide = LowRankGaussianGuide(model, 0.25).double()
    wanted = sum(
        kl_divergence(guide.site_posterior(name), by_layer(site.projection))
        for name, site in model.sites.items()
    )
    torch.testing.assert_close(guide.kl(), wanted, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("prior", "shapes"),
    [
        (lambda site: dist.Normal(torch.zeros_like(site.initial_weight), 1.0), r"\(\) and batch"),
        (lambda site: dist.Normal(0.0, 1.0).expand([3, 5]).to_event(2), r"\(3, 5\) and batch"),
        (lambda site: by_layer(site).expand([4]), r"\(2, 16\) and batch shape \(4,\)"),
    ],
)
def test_a_prior_of_another_shape_is_refused(prior: Any, shapes: str, peft_network: Any) -> None:
    net = peft_network("bert", "SEQ_CLS")
    with pytest.raises(ValueError, match=rf"lora_A.weight': the prior has event shape {shapes}"):
        bayesianize(net, prior=prior)
    assert not lora_sites(net)


def test_another_prior_than_the_networks_is_refused(peft_network: Any) -> None:
    net = peft_network("bert", "SEQ_CLS")
    bayesianize(net, prior=by_layer)
    with pytest.raises(ValueError, match=r"has the prior <function by_layer .* was given NormalPr"):
        SequenceClassifier(net, 8)
    assert SequenceClassifier(net, 8, prior=by_layer).prior is by_layer


def own_scale(name: str) -> str:
    return name.replace(".weight", ".prior_scale")


@pytest.mark.parametrize("share", ["model", "site"])
def test_a_hyper_prior_has_sites_of_its_own(share: Any, make_model: Any) -> None:
    model = make_model(HierarchicalNormalPrior(0.4, share))
    trace = poutine.trace(model.sample_latents).get_trace()
    hyper = [name for name in trace.stochastic_nodes if name not in model.sites]
    if share == "model":
        assert hyper == ["prior.shared_scale"]
    else:
        assert hyper == [own_scale(name) for name in model.sites]
    for name in model.sites:
        scale = trace.nodes["prior.shared_scale" if share == "model" else own_scale(name)]
        assert isinstance(scale["fn"], dist.HalfNormal)
        assert (trace.nodes[name]["fn"].base_dist.scale == scale["value"]).all()


@pytest.mark.parametrize("share", ["model", "site"])
@pytest.mark.parametrize("parallel", [False, True])
def test_prior_draws_have_the_moments_of_the_hierarchy(
    share: Any, parallel: bool, make_model: Any, token_batch: Any, z_score: Any
) -> None:
    model = make_model(HierarchicalNormalPrior(0.4, share))
    sites = list(model.sites)
    predictive = Predictive(
        model, num_samples=600, return_sites=[*sites, "logits"], parallel=parallel
    )
    with torch.no_grad():
        draws = predictive(**{name: v for name, v in token_batch(2).items() if name != "labels"})
    assert draws["logits"].shape == (600, 2, 3)
    for name in sites:
        # E[A] = 0 and E[A^2] = 0.4^2.  Entries of a draw share a scale, so only their mean square
        # is independent between draws: 600 of them, within 4.5 standard errors (1 seed in 10^5).
        values = draws[name].reshape(600, -1)
        assert z_score(values.mean(1, keepdim=True), 0.0) < 4.5
        assert z_score(values.square().mean(1, keepdim=True), 0.4**2) < 4.5


def test_asking_for_the_prior_leaves_trace_and_noise_alone(peft_network: Any) -> None:
    net = peft_network("bert", "SEQ_CLS")
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    prior = HierarchicalNormalPrior(0.4)
    trace = poutine.trace(lambda: SequenceClassifier(net, 8, prior=prior)).get_trace()
    assert not trace.stochastic_nodes
    assert torch.equal(torch.rand(2), wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_hyper_prior_follows_the_network(dtype: torch.dtype, make_model: Any) -> None:
    model = make_model(HierarchicalNormalPrior(0.4)).to(dtype)
    trace = poutine.trace(model.sample_latents).get_trace()
    assert {trace.nodes[name]["value"].dtype for name in trace.stochastic_nodes} == {dtype}


def test_a_copy_draws_its_own_scale(make_model: Any) -> None:
    model = make_model(HierarchicalNormalPrior(0.4))
    twin = copy.deepcopy(model)
    assert twin.prior is not model.prior
    assert {id(site.projection.prior) for site in twin.sites.values()} == {id(twin.prior)}
    given = {"prior.shared_scale": torch.tensor(9.0)}
    trace = poutine.trace(poutine.condition(twin.sample_latents, given)).get_trace()
    assert all((trace.nodes[name]["fn"].base_dist.scale == 9).all() for name in twin.sites)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0.0,), "prior_scale=0.0 is not a standard"), ((1.0, "layer"), "share='layer' is unknown")],
)
def test_impossible_hyper_priors_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HierarchicalNormalPrior(*arguments)


def test_configurations_make_the_same_priors() -> None:
    assert NormalPrior(**NormalPrior(0.3).config()) == NormalPrior(0.3)
    prior = HierarchicalNormalPrior(0.3, "site")
    assert HierarchicalNormalPrior(**prior.config()).config() == prior.config()


def test_the_prior_of_a_weight_is_made_once_but_never_in_inference_mode() -> None:
    class Site:
        name = "a"
        initial_weight = torch.zeros(2, 3)

    prior = NormalPrior(0.3)
    with torch.inference_mode():
        inferred = prior(Site())
    first = prior(Site())
    assert prior(Site()) is first is not inferred
    assert NormalPrior(0.4)(Site()) is not first
    # An inference tensor would fail here.
    first.log_prob(torch.zeros(2, 3, requires_grad=True)).backward()
