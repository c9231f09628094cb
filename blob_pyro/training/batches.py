"""From a data set to batches of examples of about one length, so that little is padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import LengthGroupedSampler

Batch = dict[str, torch.Tensor]
Collator = Callable[[list[dict[str, Any]]], Batch]


def training_loader(
    data: Dataset, collator: Collator, batch_size: int, seed: int
) -> DataLoader[Any]:
    """Make a loader that shuffles, with examples of about one length in each batch."""
    sampler = LengthGroupedSampler(
        batch_size, lengths=lengths(data), generator=torch.Generator().manual_seed(seed)
    )
    return DataLoader(data, batch_size=batch_size, sampler=sampler, collate_fn=collator)


def sorted_loader(data: Dataset, collator: Collator, batch_size: int) -> DataLoader[Any]:
    """Make a loader of every example once, the shortest first."""
    sizes = lengths(data)
    order = sorted(range(len(data)), key=sizes.__getitem__)
    return DataLoader(data.select(order), batch_size=batch_size, collate_fn=collator)


def lengths(data: Dataset) -> list[int]:
    """Count the characters of each example: of ``text``, or of ``prompt`` and ``options``."""
    if "text" in data.column_names:
        return [len(text) for text in data["text"]]
    return [len("".join([row["prompt"], *row["options"]])) for row in data]
