from __future__ import annotations

from typing import Any

import pytest
import torch
from pyro import poutine

from blob_pyro.guides import PointEstimateGuide, model_at_mean
from blob_pyro.guides.site_records import SiteRecords


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
