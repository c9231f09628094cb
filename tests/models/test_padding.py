from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from blob_pyro.models import CausalLM, LabelTokenClassifier
from blob_pyro.models.padding import align_padding
from blob_pyro.testing import DECODER

TEXTS = [[5, 6, 7, 8], [9, 8], [], [4]]
LENGTH = 4


def padded(offsets: list[int]) -> dict[str, torch.Tensor]:
    """Put each text at its offset among zeros."""
    ids, mask = torch.zeros(4, LENGTH, dtype=torch.int64), torch.zeros(4, LENGTH, dtype=torch.int64)
    for row, (text, offset) in enumerate(zip(TEXTS, offsets, strict=True)):
        ids[row, offset : offset + len(text)] = torch.tensor(text, dtype=torch.int64)
        mask[row, offset : offset + len(text)] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": 10 * ids}


LEFT, RIGHT = padded([0, 2, 4, 3]), padded([0, 0, 0, 0])


@pytest.mark.parametrize("offsets", [[0, 0, 0, 0], [0, 2, 4, 3], [0, 1, 2, 2]])
@pytest.mark.parametrize(("side", "expected"), [("left", LEFT), ("right", RIGHT)])
def test_padding_moves_to_the_side(side: Any, expected: Any, offsets: list[int]) -> None:
    aligned = align_padding(padded(offsets), side)
    assert list(aligned) == list(expected)
    assert all(torch.equal(aligned[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("real", "dtype"), [(1, torch.bool), (1, torch.float32), (2, torch.int64), (-1, torch.int32)]
)
def test_nonzero_means_real_in_any_dtype(real: int, dtype: torch.dtype) -> None:
    batch = padded([0, 1, 2, 2])
    batch["attention_mask"] = (real * batch["attention_mask"]).to(dtype)
    aligned = align_padding(batch, "left")
    assert torch.equal(aligned["input_ids"], LEFT["input_ids"])
    assert torch.equal(aligned["attention_mask"], (real * LEFT["attention_mask"]).to(dtype))


def test_tensors_of_another_shape_pass_through() -> None:
    labels = torch.arange(4)
    assert align_padding({**LEFT, "labels": labels}, "right")["labels"] is labels


@pytest.mark.parametrize("name", ["decoder_input_ids", "qformer_input_ids", "input_features"])
def test_what_has_as_many_columns_by_chance_is_refused_rather_than_moved(name: str) -> None:
    other = torch.arange(4 * LENGTH * 3).reshape(4, LENGTH, 3)
    with pytest.raises(ValueError, match=rf"{name} has the shape.*_side='right'"):
        align_padding({**LEFT, name: other}, "right")
    assert align_padding({**LEFT, name: other}, "left")[name] is other


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[1, 1, 1], [0, 0, 0]], "row 1 of attention_mask has no real token"),
        ([[1, 0, 1], [1, 1, 1]], "row 0 of attention_mask has .* padding between real"),
        ([[1, 1], [1, 1]], r"attention_mask has the shape \(2, 2\) but input_ids has \(2, 3\)"),
    ],
)
def test_masks_that_name_no_text_are_refused(mask: Any, message: str, classifier: Any) -> None:
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    model = classifier("llama")
    for program in (model, CausalLM(model.network, 4)):
        with pytest.raises(ValueError, match=message):
            program(input_ids=ids, attention_mask=torch.tensor(mask), labels=ids)


def test_a_token_of_another_vocabulary_is_refused(classifier: Any, token_batch: Any) -> None:
    """As from a tokenizer with a padding token that was added to it alone."""
    model, batch = classifier("llama"), token_batch()
    batch["input_ids"][0, 0] = 60
    with pytest.raises(IndexError):
        model.network.get_base_model()(batch["input_ids"])
    with pytest.raises(ValueError, match=r"the token 60 but the network knows 60; give its"):
        model(**batch)
    model.network.get_base_model().resize_token_embeddings(61)
    assert model(**batch).isfinite().all()


def test_texts_after_which_others_would_be_read_otherwise_are_refused() -> None:
    """Transformers keeps the frequencies of the longest text of a network."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}
    config = LlamaConfig(**{**DECODER, "max_position_embeddings": 8, "rope_parameters": rope})
    net = get_peft_model(LlamaForCausalLM(config), LoraConfig(target_modules=["q_proj"]))
    model = LabelTokenClassifier(net, [7, 9], 8)
    ids = torch.arange(5, 14)[None]
    model(input_ids=ids[:, :8])
    with pytest.raises(ValueError, match="a text has 9 tokens, but beyond 8 the network turns"):
        model(input_ids=ids)
