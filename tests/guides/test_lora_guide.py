"""What all guides over LoRA sites share: the KL, and what the posterior means on the weight."""

from __future__ import annotations

import copy
import math
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from blob_pyro.guides import (
    LoraGuide,
    LowRankGaussianGuide,
    PointEstimateGuide,
    ScalaBLGuide,
    TFBGuide,
)
from blob_pyro.guides.lora_guide import find_guide
from blob_pyro.poutine import apply_weight

ONE_LAYER = {"target_modules": ["q_proj"], "layers_to_transform": [0]}
# Name, task type, options of the adapter: scalings 2, 4 / sqrt(3), 2 and 2.
ADAPTERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "linear": ("llama", "CAUSAL_LM", {}),
    "rslora": ("llama", "CAUSAL_LM", {"r": 3, "use_rslora": True}),
    "conv1d": ("gpt2", "CAUSAL_LM", {}),
    "encoder": ("bert", "SEQ_CLS", {}),
}
guides = pytest.mark.parametrize("guide_class", [LowRankGaussianGuide, PointEstimateGuide])


@pytest.fixture(params=ADAPTERS)
def gaussian(request: pytest.FixtureRequest, classifier: Any) -> LowRankGaussianGuide:
    """A guide in float64 whose means and scales are everywhere different."""
    name, task_type, options = ADAPTERS[request.param]
    return spread(classifier(name, task_type, prior_scale=0.3, **options).double())


def spread(model: Any) -> LowRankGaussianGuide:
    guide = LowRankGaussianGuide(model)
    for name in guide.sites:
        guide.M[name].data.normal_()
        guide.G[name].data.uniform_(0.3, 0.9)
    return guide


def test_kl_is_torchs(gaussian: LowRankGaussianGuide) -> None:
    expected = sum(
        kl_divergence(
            Normal(gaussian.M[name], gaussian.G[name] ** 2),
            Normal(torch.zeros_like(gaussian.M[name]), 0.3),
        ).sum()
        for name in gaussian.sites
    )
    assert gaussian.kl().dtype == torch.float64
    torch.testing.assert_close(gaussian.kl(), expected, atol=1e-9, rtol=0)


def test_kl_is_the_formula(gaussian: LowRankGaussianGuide) -> None:
    expected = 0.0
    mean, scale = gaussian.mean(), gaussian.scale()
    for name in gaussian.sites:
        pairs = zip(mean[name].flatten().tolist(), scale[name].flatten().tolist(), strict=True)
        for m, omega in pairs:
            expected += math.log(0.3 / omega) + (omega**2 + m**2) / (2 * 0.3**2) - 0.5
    assert abs(gaussian.kl().item() - expected) < 1e-9


def test_kl_is_differentiable(gaussian: LowRankGaussianGuide) -> None:
    gaussian.kl().backward()
    for name in gaussian.sites:
        mean, root = gaussian.M[name], gaussian.G[name]
        torch.testing.assert_close(mean.grad, mean.detach() / 0.3**2)
        expected = 2 * root.detach() ** 3 / 0.3**2 - 2 / root.detach()
        torch.testing.assert_close(root.grad, expected)


def test_weight_moments_are_those_of_pefts_own_delta(
    gaussian: LowRankGaussianGuide, z_score: Any
) -> None:
    # 2 x 256 entries (768 for the Conv1D) of one layer within 4.5 standard errors: fails less
    # than 1 seed in 90.
    name, site = next(iter(gaussian.sites.items()))
    deltas = []
    for _ in range(1500):
        drawn = gaussian()[name].detach()
        site.projection.install(drawn, apply_weight(drawn, torch.Size([1, 1])))
        with site.projection.use.running():
            delta = site.layer.get_delta_weight("default").detach()
        deltas.append(delta.T if site.layer.fan_in_fan_out else delta)
    sample = torch.stack(deltas)
    mean, deviation = gaussian.weight_moments(name)
    assert mean.shape == deviation.shape == sample.shape[1:]
    assert z_score(sample, mean) < 4.5
    assert z_score((sample - mean).square(), deviation.square()) < 4.5
    # The test would see a factor of 1.1 on the scale, so it would see a wrong s.
    assert z_score((sample - mean).square(), 1.21 * deviation.square()) > 4.5


def dense(guide: LowRankGaussianGuide, name: str) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """The map T from vec(A) to vec(s B A), rows first, and mean and variance of vec(A)."""
    site = guide.sites[name]
    identity = torch.eye(site.projection.in_features, dtype=torch.float64)
    linear = site.scaling * torch.kron(site.lora_B.detach(), identity)
    return linear, guide.mean()[name].flatten(), guide.scale()[name].flatten().square()


def test_weight_moments_are_those_of_the_dense_gaussian(gaussian: LowRankGaussianGuide) -> None:
    for name, site in gaussian.sites.items():
        linear, mean, variance = dense(gaussian, name)
        covariance = linear @ torch.diag(variance) @ linear.T
        found_mean, found_deviation = gaussian.weight_moments(name)
        torch.testing.assert_close(found_mean.flatten(), linear @ mean)
        torch.testing.assert_close(found_deviation.flatten().square(), covariance.diagonal())
        # Theorem 3.1 entry by entry: Cov(W_ij, W_kl) = s^2 [j = l] sum_p B_ip B_kp Omega_pj^2.
        B, omega = site.lora_B.detach(), gaussian.scale()[name]
        blocks = site.scaling**2 * torch.einsum("ip,kp,pj->ijk", B, B, omega.square())
        m, n = found_mean.shape
        expected = torch.diag_embed(blocks.permute(0, 2, 1)).permute(0, 2, 1, 3)
        torch.testing.assert_close(covariance.reshape(m, n, m, n), expected)


@pytest.mark.parametrize("options", [{}, {"r": 3, "use_rslora": True}], ids=["lora", "rslora"])
def test_kl_in_A_is_the_kl_of_the_low_rank_gaussians(options: Any, classifier: Any) -> None:
    # Theorem 3.2.  Both live on the range of T; in an orthonormal basis Q of it, T = Q R.
    model = classifier("llama", prior_scale=0.3, **ONE_LAYER, **options).double()
    guide = spread(model)
    (name,) = guide.sites
    linear, mean, variance = dense(guide, name)
    assert torch.linalg.matrix_rank(linear) == linear.shape[1] < linear.shape[0]
    Q, R = torch.linalg.qr(linear)
    posterior = MultivariateNormal(Q.T @ linear @ mean, R @ torch.diag(variance) @ R.T)
    prior = MultivariateNormal(torch.zeros_like(mean), 0.3**2 * R @ R.T)
    assert abs(kl_divergence(posterior, prior) - guide.kl()).item() < 1e-9


@guides
def test_the_mean_starts_at_the_adapter(
    guide_class: Any, architecture: tuple[str, str], classifier: Any, peft_network: Any
) -> None:
    pyro.set_rng_seed(3)
    network = peft_network(*architecture)
    pyro.set_rng_seed(3)
    guide = guide_class(classifier(*architecture))
    expected = {
        name.replace(".default", ""): parameter
        for name, parameter in network.named_parameters()
        if ".lora_A." in name
    }
    assert list(guide.mean()) == list(expected) == list(guide.sites)
    assert all(torch.equal(guide.mean()[name], expected[name]) for name in expected)


@guides
def test_mean_and_scale_are_copies(guide_class: Any, classifier: Any) -> None:
    guide: LoraGuide = guide_class(classifier("llama"))
    state = copy.deepcopy(guide.state_dict())
    for tensors in (guide.mean(), guide.scale()):
        for tensor in tensors.values():
            assert not tensor.requires_grad
            tensor.add_(1)
    assert all(torch.equal(value, state[name]) for name, value in guide.state_dict().items())


@guides
def test_a_call_samples_every_site_with_its_centre(
    guide_class: Any, classifier: Any, token_batch: Any
) -> None:
    guide: LoraGuide = guide_class(classifier("llama"))
    trace = poutine.trace(guide).get_trace(**token_batch())
    assert trace.stochastic_nodes == list(guide.sites)
    assert {trace.nodes[name]["value"].unconstrained() for name in trace.param_nodes} == set(
        guide.parameters()
    )
    for name, draw in trace.nodes["_RETURN"]["value"].items():
        assert draw is trace.nodes[name]["value"]
        assert torch.equal(trace.nodes[name]["infer"]["center"], guide.mean()[name])
    with pyro.plate("draws", 5, dim=-2):
        draws = guide()
    assert {name: draw.shape for name, draw in draws.items()} == {
        name: (5, 1, *mean.shape) for name, mean in guide.mean().items()
    }


@guides
def test_model_and_guide_are_copied_together(
    guide_class: Any, classifier: Any, token_batch: Any
) -> None:
    model = classifier("llama")
    guide = guide_class(model)
    poutine.replay(model, trace=poutine.trace(guide).get_trace())(**token_batch())
    copied_model, copied_guide = copy.deepcopy((model, guide))
    assert copied_guide.model is copied_model
    assert guide.model is model
    assert not {*copied_guide.parameters()} & {*guide.parameters()}
    # The model is no part of the guide's state.
    assert {name.split(".")[0] for name in guide.state_dict()} <= {"M", "G"}


@pytest.mark.parametrize(
    ("former", "now"),
    [("LowRankIsotropicGuide", TFBGuide), ("StochasticSubspaceGuide", ScalaBLGuide)],
)
def test_a_guide_is_found_by_the_name_it_was_saved_with(former: str, now: Any) -> None:
    assert find_guide(former) is now
