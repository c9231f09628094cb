from __future__ import annotations

from typing import Any

import torch

from blob_pyro.tasks import InstructionCollator

EXAMPLES = [
    {"prompt": "the printer is", "response": "about the phone"},
    {"prompt": "my login", "response": "locked"},
]


def test_only_responses_and_their_end_are_labelled(tokenizer: Any) -> None:
    batch = InstructionCollator(tokenizer)(EXAMPLES)
    for row, example in enumerate(EXAMPLES):
        real = batch["attention_mask"][row] == 1
        prompt = tokenizer(example["prompt"])["input_ids"]
        rest = [*tokenizer(example["response"])["input_ids"], tokenizer.eos_token_id]
        assert batch["input_ids"][row][real].tolist() == [*prompt, *rest]
        assert batch["labels"][row][real].tolist() == [*[-100] * len(prompt), *rest]
        assert set(batch["labels"][row][~real].tolist()) <= {-100}
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_long_examples_lose_the_beginning_of_the_prompt(tokenizer: Any) -> None:
    whole = InstructionCollator(tokenizer)(EXAMPLES[:1])["input_ids"][0]
    batch = InstructionCollator(tokenizer, max_length=5)(EXAMPLES[:1])
    assert torch.equal(batch["input_ids"][0], whole[-5:])
    assert batch["labels"][0].tolist() == [-100, *whole[-4:].tolist()]
    short = InstructionCollator(tokenizer, max_length=3)(EXAMPLES[:1])
    assert short["input_ids"][0].tolist() == whole[[2, 3, 4]].tolist()
    assert short["labels"][0].tolist() == [-100, *whole[[3, 4]].tolist()]
