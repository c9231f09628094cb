from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset

from blob_pyro.tasks import OptionCollator

EXAMPLES: list[dict[str, Any]] = [
    {"prompt": "the printing", "options": ["login", "the password"], "label": 1},
    {"prompt": "my phone is the", "options": ["printing", "login", "phone"], "label": 0},
]


def words(tokenizer: Any, ids: torch.Tensor) -> list[str]:
    return [str(token) for token in tokenizer.convert_ids_to_tokens(ids.tolist())]


def test_options_follow_their_prompt_and_rows_are_padded_on_the_left(tokenizer: Any) -> None:
    batch = OptionCollator(tokenizer)(EXAMPLES)
    assert batch["option_ids"].tolist() == [[1, 2, 2], [1, 2, 3]]
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1, 1, 1, 1], [1] * 7]
    assert batch["labels"].tolist() == [1, 0]
    first, second = (words(tokenizer, ids) for ids in batch["input_ids"])
    assert first == ["<pad>", "<pad>", "the", "printing", "login", "the", "password"]
    assert second == ["my", "phone", "is", "the", "printing", "login", "phone"]


def test_a_prompt_reaches_into_the_columns_of_longer_options(tokenizer: Any) -> None:
    longer = {"prompt": "my phone", "options": ["the login is", "the password is"], "label": 1}
    batch = OptionCollator(tokenizer)([EXAMPLES[1], longer])
    assert batch["option_ids"].tolist() == [[0, 0, 0, 1, 2, 3], [1, 1, 1, 2, 2, 2]]
    assert batch["attention_mask"].tolist() == [[0] + [1] * 7, [1] * 8]
    first = words(tokenizer, batch["input_ids"][0])
    assert first == ["<pad>", "my", "phone", "is", "the", "printing", "login", "phone"]


def test_a_long_prompt_keeps_its_end(tokenizer: Any) -> None:
    batch = OptionCollator(tokenizer, max_length=2)(EXAMPLES)
    assert words(tokenizer, batch["input_ids"][1, :2]) == ["is", "the"]


def test_the_loader_reads_the_longest_first(tokenizer: Any) -> None:
    loader = OptionCollator(tokenizer).loader(Dataset.from_list(EXAMPLES * 2), batch_size=3)
    assert torch.cat([batch["labels"] for batch in loader]).tolist() == [0, 0, 1, 1]
