"""No hidden tensor on another device: the whole program runs on ``meta`` alone."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pyro
import pytest
import torch
import transformers.masking_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from blob_pyro.guides import LowRankGaussianGuide, PointEstimateGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import OptionLikelihood
from blob_pyro.poutine import flipout


class OneDevice(TorchDispatchMode):
    """Refuse an operation on, or to, a device other than ``meta``; scalars count."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, torch.Tensor) and leaf.device.type != "meta":
                raise AssertionError(f"{func} met a {leaf.device} tensor of shape {leaf.shape}")
        return result


HANDLERS: dict[str, Any] = {
    "shared draw": nullcontext,
    "flipout": flipout,
    "flipout per token": lambda: flipout(per="token"),
}


@pytest.fixture(autouse=True)
def _mask_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep transformers from reading the mask's values, to leave it out if nothing is padded."""
    for attention in ("causal", "bidirectional"):
        name = f"_ignore_{attention}_mask_sdpa"
        monkeypatch.setattr(transformers.masking_utils, name, lambda *args, **kwargs: False)


@pytest.mark.parametrize("tensors", [(0, 1), (1, 0)], ids=["meta first", "cpu first"])
@pytest.mark.parametrize("shape", [(), (2,)], ids=["scalar", "vector"])
def test_the_guard_refuses_a_mixture(tensors: tuple[int, int], shape: tuple[int, ...]) -> None:
    pair = torch.zeros(shape, device="meta"), torch.zeros(shape)
    with OneDevice(), pytest.raises((AssertionError, RuntimeError), match="cpu"):
        torch.add(*(pair[index] for index in tensors))


@pytest.mark.parametrize("guide_class", [LowRankGaussianGuide, PointEstimateGuide])
@pytest.mark.parametrize("handler", HANDLERS)
def test_model_guide_and_gradient_stay_on_one_device(
    handler: str,
    guide_class: Any,
    architecture: tuple[str, str],
    classifier: Any,
    token_batch: Any,
) -> None:
    model = classifier(*architecture).to("meta")
    batch = {name: tensor.to("meta") for name, tensor in token_batch().items()}
    elbo = ReweightedTrace_ELBO(3, num_particles=2, per_datum=True)
    with pyro.validation_enabled(False), HANDLERS[handler](), OneDevice():
        guide = guide_class(model)
        elbo.differentiable_loss(model, guide, **batch).backward()
    for parameter in (*model.parameters(), *guide.parameters()):
        assert not parameter.requires_grad or parameter.grad.device.type == "meta"


@pytest.mark.parametrize("handler", [name for name in HANDLERS if name != "flipout per token"])
def test_scoring_options_stays_on_one_device(handler: str, peft_network: Any) -> None:
    model = OptionLikelihood(peft_network("llama").to("meta"), num_options=3, num_data=8)
    batch = {
        "input_ids": torch.ones(2, 9, dtype=torch.long, device="meta"),
        "attention_mask": torch.ones(2, 9, dtype=torch.long, device="meta"),
        "option_ids": torch.ones(2, 5, dtype=torch.long, device="meta"),
        "labels": torch.zeros(2, dtype=torch.long, device="meta"),
    }
    elbo = ReweightedTrace_ELBO(3, num_particles=2, per_datum=True)
    with pyro.validation_enabled(False), HANDLERS[handler](), OneDevice():
        guide = LowRankGaussianGuide(model)
        elbo.differentiable_loss(model, guide, **batch).backward()
    assert all(parameter.grad.device.type == "meta" for parameter in guide.M.parameters())
