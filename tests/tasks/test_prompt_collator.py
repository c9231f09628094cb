from __future__ import annotations

from typing import Any

import torch
from datasets import DatasetDict

from blob_pyro.tasks import PromptCollator, TextClassificationTask, helpdesk

TASK = TextClassificationTask("t", DatasetDict(), ("login", "printing"), "{text} is about the")


def test_batches_hold_prompt_mask_and_labels(tokenizer: Any) -> None:
    examples = [{"text": "the printer", "label": 1}, {"text": "my login is locked", "label": 0}]
    batch = PromptCollator(tokenizer, TASK)(examples)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert batch["labels"].tolist() == [1, 0]
    for row, text in enumerate(["the printer is about the", "my login is locked is about the"]):
        real = batch["input_ids"][row][batch["attention_mask"][row] == 1]
        assert real.tolist() == tokenizer(text)["input_ids"]


def test_long_texts_are_cut_but_never_the_prompt(tokenizer: Any) -> None:
    batch = PromptCollator(tokenizer, TASK, max_length=3)([{"text": "my login is locked today"}])
    assert batch["input_ids"][0].tolist() == tokenizer("my login is is about the")["input_ids"]


def test_messages_without_a_class_have_no_labels(tokenizer: Any) -> None:
    loader = PromptCollator(tokenizer, helpdesk()).loader(helpdesk().splits["out_of_scope"])
    assert all("labels" not in batch for batch in loader)
    assert sum(len(batch["input_ids"]) for batch in loader) == 100


def test_braces_in_a_text_are_only_text() -> None:
    assert TASK.prompts(["{text} {0}"]) == ["{text} {0} is about the"]


def test_batches_stay_on_the_cpu_as_int64(tokenizer: Any) -> None:
    batch = PromptCollator(tokenizer, TASK)([{"text": "login", "label": 0}])
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
