from __future__ import annotations

from typing import Any

import pytest
import torch

from blob_pyro.guides import PointEstimateGuide
from blob_pyro.infer import posterior_predictive
from blob_pyro.lora import bayesianize, lora_sites
from blob_pyro.posthoc import to_singular_basis


def product(site: Any) -> torch.Tensor:
    return (site.lora_B @ site.projection.initial_weight).detach()


def test_the_mean_function_is_unchanged(
    architecture: tuple[str, str], classifier: Any, token_batch: Any
) -> None:
    model = classifier(*architecture)
    batch = token_batch()
    found = []
    for _ in range(2):
        guide = PointEstimateGuide(model)
        found.append(posterior_predictive(model, guide, [batch], 0, progress=False)["logits"])
        for site in model.sites.values():
            before = site.lora_B.detach().clone()
            to_singular_basis(site)
            assert site.lora_B.requires_grad
            assert len(found) > 1 or not torch.allclose(site.lora_B, before)
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)


def test_the_columns_are_the_singular_vectors(peft_network: Any) -> None:
    net = peft_network("bert", "SEQ_CLS", r=4).double()
    for site in bayesianize(net).values():
        before, B = product(site), site.lora_B.detach().clone()
        to_singular_basis(site)
        gram = (site.lora_B.mT @ site.lora_B).detach()
        exact = torch.linalg.eigvalsh(B.mT @ B).flip(0)
        torch.testing.assert_close(gram, exact.diag(), atol=1e-12, rtol=1e-9)
        torch.testing.assert_close(product(site), before, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_direction_that_b_lacks_becomes_a_column_of_zeros(
    dtype: torch.dtype, peft_network: Any
) -> None:
    net = peft_network("bert", "SEQ_CLS", r=3)
    bayesianize(net)
    for site in lora_sites(net.to(dtype)).values():
        # Powers of two, so that in every dtype one column is the sum of the others.
        site.lora_B.data = torch.randint(-4, 5, site.lora_B.shape).to(dtype)
        site.lora_B.data[:, 2] = site.lora_B.data[:, 0] + site.lora_B.data[:, 1]
        before = product(site)
        to_singular_basis(site)
        assert not site.lora_B[:, 2].any()
        assert site.lora_B[:, :2].any(0).all()
        tolerance = 10 * torch.finfo(dtype).eps * before.abs().max().item()
        torch.testing.assert_close(product(site), before, atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_wide_layer_in_half_precision_keeps_its_update(
    dtype: torch.dtype, peft_network: Any
) -> None:
    (site, *_) = bayesianize(peft_network("llama").to(dtype)).values()
    # As many outputs as a usual layer has: times bfloat16's rounding that is 8.
    site.lora_B.data = torch.randn(1024, 2).to(dtype)
    before = product(site).float()
    to_singular_basis(site)
    error = (product(site).float() - before).norm() / before.norm()
    assert error < 4 * torch.finfo(dtype).eps


def test_a_rank_above_the_outputs(peft_network: Any) -> None:
    # The values of this network have 8 features.
    net = peft_network("llama", r=12).double()
    site = next(s for name, s in bayesianize(net).items() if "v_proj" in name)
    before = product(site)
    to_singular_basis(site)
    assert not site.lora_B[:, 8:].any()
    assert not site.projection.initial_weight[8:].any()
    torch.testing.assert_close(product(site), before, atol=1e-12, rtol=1e-9)


def test_a_b_of_zeros_stays(peft_network: Any) -> None:
    net = peft_network("llama")
    for site in bayesianize(net).values():
        site.lora_B.data.zero_()
        to_singular_basis(site)
        assert not site.lora_B.any()
        assert site.projection.initial_weight.isfinite().all()
