"""Predictions of the linearised model, against Jacobians by autograd and dense covariances."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine

from blob_pyro.guides import LaplaceGuide, PointEstimateGuide, linearised_logits, model_at_mean
from blob_pyro.infer import posterior_predictive
from blob_pyro.models import OptionLikelihood
from blob_pyro.posthoc import laplace

Batch = dict[str, torch.Tensor]


@pytest.fixture
def posterior(architecture: tuple[str, str], classifier: Any, token_batch: Any) -> LaplaceGuide:
    """An approximation for every architecture in float64, factors cut to half of their size."""
    made = classifier(*architecture).double()
    model = model_at_mean(made, PointEstimateGuide(made)).eval()
    return laplace(model, [token_batch()], max_rank=8, progress=False)


def dense_moments(guide: LaplaceGuide, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of the logits by autograd, from covariances written out."""
    means = guide.mean()

    def logits(*values: torch.Tensor) -> torch.Tensor:
        with poutine.block():
            found: torch.Tensor = poutine.condition(
                guide.model, dict(zip(means, values, strict=True))
            )(**batch)
        return found

    jacobians = torch.autograd.functional.jacobian(logits, tuple(means.values()))
    center = logits(*means.values())
    covariance = torch.zeros_like(center).diag_embed()
    for name, jacobian in zip(means, jacobians, strict=True):
        G = guide.row_basis[name] @ guide.row_values[name].diag() @ guide.row_basis[name].mT
        H = guide.col_basis[name] @ guide.col_values[name].diag() @ guide.col_basis[name].mT
        one = torch.eye(len(G) * len(H), dtype=torch.float64)
        inverse = torch.linalg.inv(torch.kron(G, H) + guide.prior_precision * one)
        covariance += jacobian.flatten(2) @ inverse @ jacobian.flatten(2).mT
    return center.detach(), covariance


def check_moments(guide: LaplaceGuide, batch: Batch) -> None:
    found, expected = linearised_logits(guide.model, guide, batch), dense_moments(guide, batch)
    # Llama and Qwen normalise in float32 whatever the dtype.
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_the_moments_are_those_of_dense_matrices(posterior: LaplaceGuide, token_batch: Any) -> None:
    check_moments(posterior, token_batch(3, seed=5))


@pytest.mark.parametrize("packs", [True, False], ids=["packed", "one by one"])
def test_options_in_one_row_or_several(packs: bool, peft_network: Any) -> None:
    model = OptionLikelihood(peft_network("llama").double(), 3, 4, latent=("A", "B")).eval()
    model.packs = packs
    batch = {
        "input_ids": torch.randint(5, 60, (2, 9)),
        "attention_mask": torch.ones(2, 9, dtype=torch.int64),
        # The second question has two options.
        "option_ids": torch.tensor([[1, 1, 2, 3, 3], [1, 2, 2, 2, 0]]),
        "labels": torch.tensor([2, 1]),
    }
    batch["attention_mask"][1, 0] = batch["attention_mask"][1, -1] = 0
    guide = laplace(model, [batch], max_rank=8, progress=False)
    mean, covariance = linearised_logits(model, guide, batch)
    assert mean[1, 2] == -torch.inf
    assert not covariance[1, 2].any()
    assert covariance[0].diagonal().min() > 0
    check_moments(guide, batch)
    for predictive in ("linearised", "probit"):
        guide.predictive = predictive
        logits = posterior_predictive(model, guide, [batch], 3, progress=False)["logits"]
        assert not logits.isnan().any()
        assert (logits.softmax(-1)[:, 1, 2] == 0).all()


@pytest.fixture
def small(classifier: Any, token_batch: Any) -> LaplaceGuide:
    made = classifier("bert", "SEQ_CLS").double()
    model = model_at_mean(made, PointEstimateGuide(made)).eval()
    return laplace(model, [token_batch()], max_rank=8, progress=False)


def test_draws_have_these_moments(small: LaplaceGuide, token_batch: Any, z_score: Any) -> None:
    # 9 means and 81 products of deviations from 600 draws within 5 standard errors: fails less
    # than 1 seed in 10^4.
    batch = token_batch(3, seed=5)
    mean, covariance = linearised_logits(small.model, small, batch)
    predictive = posterior_predictive(small.model, small, [batch], 600, 1, progress=False)
    deviations = predictive["logits"] - mean
    assert z_score(deviations, 0.0) < 5
    products = deviations[..., :, None] * deviations[..., None, :]
    assert z_score(products, covariance) < 5
    # The network itself is another function.
    small.predictive = "network"
    network = posterior_predictive(small.model, small, [batch], 600, 1, progress=False)
    assert z_score(network["logits"] - mean, 0.0) > 5


@pytest.mark.parametrize("predictive", ["linearised", "probit"])
def test_an_adapter_in_half_precision(predictive: Any, classifier: Any, token_batch: Any) -> None:
    pyro.set_rng_seed(0)
    model, batch = classifier("llama").double().eval(), token_batch()
    found = []
    for dtype in (torch.float64, torch.bfloat16):
        guide = laplace(
            model.to(dtype), [batch], prior_precision=20.0, predictive=predictive, progress=False
        )
        mean, covariance = linearised_logits(model, guide, batch)
        logits = posterior_predictive(model, guide, [batch], 2, 0, progress=False)["logits"]
        assert logits.isfinite().all()
        found.append((mean.double(), covariance.double()))
    for exact, half in zip(*found, strict=True):
        assert (half - exact).abs().max() < 0.1 * exact.abs().max()


def test_a_draw_is_one_function(small: LaplaceGuide, token_batch: Any) -> None:
    batches = [token_batch(3, seed=5), token_batch(2, seed=6)]
    whole = posterior_predictive(small.model, small, batches, 4, 7, progress=False)
    second = posterior_predictive(small.model, small, batches[1:], 4, 7, progress=False)
    torch.testing.assert_close(whole["logits"][:, 3:], second["logits"])
    assert whole["log_likelihood"].shape == (4, 5)
    # The draws are those of the guide: each moves the logits along its own deviation.
    pyro.set_rng_seed(7)
    draws = [small() for _ in range(4)]
    step = 1e-6
    mean = small.mean()
    for number, draw in enumerate(draws):
        near = {name: mean[name] + step * (draw[name].detach() - mean[name]) for name in mean}
        with torch.no_grad():
            moved, center = (
                poutine.condition(small.model, weights)(**batches[0]) for weights in (near, mean)
            )
        slope = (moved - center) / step
        torch.testing.assert_close(
            whole["logits"][number, :3], center + slope, atol=1e-3, rtol=1e-3
        )


def test_probit_in_closed_form(small: LaplaceGuide, token_batch: Any) -> None:
    batch = token_batch(3, seed=5)
    mean, covariance = linearised_logits(small.model, small, batch)
    small.predictive = "probit"
    predictive = posterior_predictive(small.model, small, [batch], 4, progress=False)
    assert predictive["logits"].shape == (1, 3, 3)
    for row in range(3):
        for option in range(3):
            shrunk = mean[row, option] / math.sqrt(
                1 + math.pi * covariance[row, option, option] / 8
            )
            torch.testing.assert_close(predictive["logits"][0, row, option], shrunk)


@pytest.mark.parametrize("predictive", ["linearised", "probit", "network"])
def test_without_draws_it_is_the_network_at_the_mean(
    predictive: Any, small: LaplaceGuide, token_batch: Any
) -> None:
    batch = token_batch(3)
    small.predictive = predictive
    found = posterior_predictive(small.model, small, [batch], 0, progress=False)["logits"]
    with torch.no_grad():
        torch.testing.assert_close(found[0], poutine.condition(small.model, small.mean())(**batch))
