"""The guide of a Laplace approximation against the dense Gaussian."""

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
from blob_pyro.guides import LaplaceGuide, PointEstimateGuide, model_at_mean
from blob_pyro.guides.laplace import SiteRecords
from blob_pyro.infer import ReweightedTrace_ELBO, posterior_predictive
from blob_pyro.posthoc import laplace
from blob_pyro.poutine import flipout


@pytest.fixture(params=[3, 16], ids=["low rank", "whole"])
def guide(request: pytest.FixtureRequest, classifier: Any, token_batch: Any) -> LaplaceGuide:
    model = classifier("llama", prior_scale=0.3).double()
    return laplace(
        model, [token_batch()], prior_precision=2.5, max_rank=request.param, progress=False
    )


def dense(guide: LaplaceGuide, name: str) -> MultivariateNormal:
    """The Gaussian over the entries of one layer, row after row, from the factors alone."""
    G = guide.row_basis[name] @ guide.row_values[name].diag() @ guide.row_basis[name].mT
    H = guide.col_basis[name] @ guide.col_values[name].diag() @ guide.col_basis[name].mT
    precision = torch.kron(G, H) + 2.5 * torch.eye(len(G) * len(H), dtype=torch.float64)
    return MultivariateNormal(guide.mean()[name].flatten(), precision_matrix=precision)


def test_the_posterior_is_the_dense_gaussian(guide: LaplaceGuide) -> None:
    for name, mean in guide.mean().items():
        posterior = guide.site_posterior(name)
        value = torch.randn_like(mean)
        torch.testing.assert_close(
            posterior.log_prob(value), dense(guide, name).log_prob(value.flatten())
        )
        torch.testing.assert_close(guide.scale()[name].flatten(), dense(guide, name).stddev)
        assert not torch.equal(guide.scale()[name], torch.full_like(mean, 2.5**-0.5))


def test_the_kl_from_the_models_prior_is_that_of_the_dense_gaussians(guide: LaplaceGuide) -> None:
    expected = 0.0
    for name in guide.sites:
        q = dense(guide, name)
        one = torch.eye(len(q.mean), dtype=torch.float64)
        expected += float(
            kl_divergence(q, MultivariateNormal(torch.zeros_like(q.mean), 0.09 * one))
        )
    assert float(guide.kl().detach()) == pytest.approx(expected, abs=1e-8)


def test_weight_moments_are_those_of_the_dense_gaussian(guide: LaplaceGuide) -> None:
    for name, site in guide.sites.items():
        q, B = dense(guide, name), site.lora_B.detach()
        linear = site.scaling * torch.kron(B, torch.eye(16, dtype=B.dtype))
        mean, deviation = guide.weight_moments(name)
        torch.testing.assert_close(mean.flatten(), linear @ q.mean)
        covariance = linear @ q.covariance_matrix @ linear.mT
        torch.testing.assert_close(deviation.flatten().square(), covariance.diagonal())


def test_draws_follow_a_plate_and_go_through_the_network(
    guide: LaplaceGuide, token_batch: Any
) -> None:
    with pyro.plate("draws", 5, dim=-2):
        draws = guide()
    assert {name: draw.shape for name, draw in draws.items()} == {
        name: (5, 1, *mean.shape) for name, mean in guide.mean().items()
    }
    batch = token_batch()
    guide.predictive = "network"
    found = [
        posterior_predictive(guide.model, guide, [batch], 3, 1, parallel=at_once, progress=False)
        for at_once in (False, True)
    ]
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)
    del batch["labels"]
    drawn = Predictive(guide.model, guide=guide, num_samples=3, return_sites=("logits",))(**batch)
    assert drawn["logits"].shape == (3, 4, 3)


def test_flipout_is_refused(guide: LaplaceGuide, token_batch: Any) -> None:
    with (
        flipout(),
        pytest.raises(ValueError, match=r"flipout: no centre is known for site 'base_model"),
    ):
        ReweightedTrace_ELBO(1).loss(guide.model, guide, **token_batch())


def test_only_the_mean_could_be_trained(guide: LaplaceGuide, token_batch: Any) -> None:
    learned = {name for name, parameter in guide.named_parameters() if parameter.requires_grad}
    assert learned == {f"M.{name}" for name in guide.sites}
    trace = poutine.trace(guide).get_trace(**token_batch())
    assert set(trace.param_nodes) == learned


def test_a_new_guide_is_as_wide_as_the_prior_precision_says(classifier: Any) -> None:
    guide = LaplaceGuide(classifier("llama"), prior_precision=25.0)
    for name, scale in guide.scale().items():
        torch.testing.assert_close(scale, torch.full_like(scale, 0.2))
        assert torch.equal(guide.mean()[name], guide.sites[name].projection.initial_weight)


@pytest.mark.parametrize("predictive", ["probit", "network"])
def test_a_saved_posterior_comes_back(
    predictive: Any, classifier: Any, token_batch: Any, tmp_path: Any
) -> None:
    model = classifier("bert", "SEQ_CLS")
    base = copy.deepcopy(model.network).unload()
    guide = laplace(model, [token_batch()], max_rank=3, predictive=predictive, progress=False)
    save_posterior(tmp_path / "p", model, guide)
    loaded_model, loaded = load_posterior(tmp_path / "p", base)
    assert loaded.config() == guide.config()
    assert all(torch.equal(loaded.state_dict()[n], v) for n, v in guide.state_dict().items())
    assert torch.equal(loaded.log_marginal_likelihood(), guide.log_marginal_likelihood())
    programs = ((model, guide), (loaded_model, loaded))
    found = [posterior_predictive(*p, [token_batch()], 2, 0, progress=False) for p in programs]
    torch.testing.assert_close(found[0], found[1])


def test_its_size_is_near_that_of_the_adapter(classifier: Any) -> None:
    guide = LaplaceGuide(classifier("llama"), max_rank=2)
    held = sum(tensor.numel() for tensor in guide.state_dict().values())
    adapter = sum(mean.numel() for mean in guide.mean().values())
    assert held < 2.5 * adapter


def test_it_goes_to_another_dtype_and_device(guide: LaplaceGuide) -> None:
    guide.float()
    assert {draw.dtype for draw in guide().values()} == {torch.float32}
    # The meta device stands for any other: shapes and devices without arithmetic.
    posterior = guide.to("meta").site_posterior(next(iter(guide.sites)))
    assert posterior.variance.device.type == posterior.rsample().device.type == "meta"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior_precision": float("nan")}, "prior_precision=nan must be positive"),
        ({"predictive": "probits"}, r"predictive='probits' is unknown; use one of \('linearised'"),
    ],
)
def test_wrong_arguments_are_named(arguments: Any, message: str, classifier: Any) -> None:
    with pytest.raises(ValueError, match=message):
        LaplaceGuide(classifier("llama"), **arguments)


@pytest.fixture
def model(architecture: tuple[str, str], classifier: Any) -> Any:
    made = classifier(*architecture).double()
    return model_at_mean(made, PointEstimateGuide(made)).eval()


def jacobians(model: Any, weights: Any, batch: Any) -> tuple[torch.Tensor, ...]:
    """Every logit's derivatives by autograd, ``B x C x r x n`` for each site."""

    def logits(*values: torch.Tensor) -> torch.Tensor:
        with poutine.block():
            found: torch.Tensor = poutine.condition(model, dict(zip(weights, values, strict=True)))(
                **batch
            )
        return found

    found: tuple[torch.Tensor, ...] = torch.autograd.functional.jacobian(
        logits, tuple(weights.values())
    )
    return found


def test_gradients_times_inputs_are_the_jacobians(model: Any, token_batch: Any) -> None:
    weights, batch = PointEstimateGuide(model).mean(), token_batch()
    records = SiteRecords(model, weights, batch)
    inputs = records.inputs
    assert list(inputs) == list(weights)
    exact = jacobians(model, weights, batch)
    for direction in torch.randn(2, 4, 3, dtype=torch.float64):
        gradients = records.gradients(direction)
        for name, jacobian in zip(weights, exact, strict=True):
            found = gradients[name].mT @ inputs[name]
            expected = torch.einsum("bc,bcij->bij", direction, jacobian)
            # Llama and Qwen normalise in float32 whatever the dtype.
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_padding_has_no_gradient_to_the_last_bit(model: Any, token_batch: Any) -> None:
    batch = token_batch()
    records = SiteRecords(model, PointEstimateGuide(model).mean(), batch)
    (name, first), *_ = records.gradients(torch.randn(4, 3)).items()
    used = (first != 0).any(-1).sum(1)
    assert (used <= batch["attention_mask"].sum(1)).all()
    assert (used < first.shape[1]).any()
    assert records.inputs[name].dtype == torch.float64


def test_neither_the_caller_s_trace_nor_the_hooks_notice(model: Any, token_batch: Any) -> None:
    weights = PointEstimateGuide(model).mean()
    with poutine.trace() as tracer:
        SiteRecords(model, weights, token_batch())
    assert not tracer.trace.nodes
    assert not any(site.projection._forward_hooks for site in model.sites.values())
    assert not any(weight.requires_grad for weight in weights.values())


def test_a_layer_that_a_call_never_reaches_has_no_record(classifier: Any, token_batch: Any) -> None:
    model = classifier("llama").eval()
    weights, batch = PointEstimateGuide(model).mean(), token_batch()
    layers = model.network.get_base_model().model.layers
    del layers[1:]
    records = SiteRecords(model, weights, batch)
    assert all(".layers.0." in name for name in records.inputs)
    assert records.gradients(torch.ones(4, 3)).keys() == records.inputs.keys()


def test_rows_that_belong_to_no_example_are_refused(classifier: Any, token_batch: Any) -> None:
    model = classifier("llama").eval()
    records = SiteRecords(model, PointEstimateGuide(model).mean(), token_batch(4))
    records._rows = 3
    with pytest.raises(ValueError, match=r"site 'base_model.*layer saw 4 rows of 3 examples"):
        _ = records.inputs


def test_half_precision_is_widened(classifier: Any, token_batch: Any) -> None:
    model = classifier("llama").bfloat16().eval()
    records = SiteRecords(model, PointEstimateGuide(model).mean(), token_batch())
    found = [*records.inputs.values(), *records.gradients(torch.ones(4, 3)).values()]
    assert {tensor.dtype for tensor in found} == {torch.float32}
