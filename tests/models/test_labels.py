"""Labels of another shape or type are refused, where broadcasting would give a wrong loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO, posterior_predictive
from blob_pyro.models import CausalLM, OptionLikelihood

Batch = dict[str, torch.Tensor]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
KINDS = ["head", "tokens", "options", "text"]


@pytest.fixture
def program(classifier: Any, peft_network: Any, token_batch: Any) -> Callable[..., Any]:
    """The maker of a model and a batch of three rows for it."""

    def make(kind: str) -> tuple[Any, Batch]:
        batch = token_batch(3)
        if kind == "head":
            return classifier("bert", "SEQ_CLS"), batch
        if kind == "tokens":
            return classifier("llama"), batch
        if kind == "options":
            ids = torch.tensor([[1, 1, 2, 3]]).expand(3, -1)
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
            return OptionLikelihood(peft_network("llama"), 3, 8), {**batch, "option_ids": ids}
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return CausalLM(peft_network("llama"), 8), batch

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_integers_of_any_width_are_one_label(kind: str, program: Any) -> None:
    model, batch = program(kind)
    guide = LowRankGaussianGuide(model)
    losses = []
    for dtype in INTEGERS[: 4 if kind == "text" else 5]:
        torch.manual_seed(0)
        labels = batch["labels"].to(dtype)
        losses.append(ReweightedTrace_ELBO(1).loss(model, guide, **{**batch, "labels": labels}))
    assert len(set(losses)) == 1


WRONG: dict[str, Callable[[torch.Tensor], Any]] = {
    "column": lambda y: y.reshape(3, -1, 1),
    "row": lambda y: y[None],
    "one for three": lambda y: y[:1],
    "one too many": lambda y: torch.cat([y, y[:1]]),
    "scalar": lambda y: y.flatten()[0],
    "longer": lambda y: torch.cat([y.reshape(3, -1), y.reshape(3, -1)[:, :1]], dim=1),
    "shorter": lambda y: y.reshape(3, -1)[:, :-1],
    "one-hot": lambda y: torch.nn.functional.one_hot(y.clamp(min=0), 60),
    "float": lambda y: y.float(),
    "fractions": lambda y: y + 0.5,
    "bool": lambda y: y > 0,
    "complex": lambda y: y.to(torch.complex64),
    "list": lambda y: y.tolist(),
    "NumPy": lambda y: y.numpy(),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_another_shape_or_type_are_refused(kind: str, wrong: str, program: Any) -> None:
    model, batch = program(kind)
    batch["labels"] = WRONG[wrong](batch["labels"])
    guide = LowRankGaussianGuide(model)
    with pytest.raises(ValueError, match=r"labels (are|have the shape) .*(needs|needed)"):
        ReweightedTrace_ELBO(1).loss(model, guide, **batch)
    if kind != "text" and isinstance(batch["labels"], torch.Tensor):
        with pytest.raises(ValueError, match=r"labels (are|have the shape) .*(needs|needed)"):
            posterior_predictive(model, guide, [batch], 2, progress=False)
