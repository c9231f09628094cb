"""The training examples as batches, for methods that go through them in their ``finish``."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from blob_pyro.methods.method import Settings
from blob_pyro.models import Classifier
from blob_pyro.training import Collator


def training_batches(
    model: Classifier, data: Dataset, collator: Collator, settings: Settings
) -> DataLoader[Any]:
    """Make a loader of shuffled batches on the device of a model, the same for the same seed."""
    device = next(model.parameters()).device

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {name: value.to(device) for name, value in collator(rows).items()}

    return DataLoader(
        data,
        batch_size=settings.training.batch_size,
        shuffle=True,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(settings.training.seed),
    )
