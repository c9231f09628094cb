"""Examples as batches, for methods that go through them in their ``finish``."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from blob_pyro.methods.method import Settings
from blob_pyro.models import Classifier
from blob_pyro.training import Collator


def example_batches(
    model: Classifier,
    data: Dataset,
    collator: Collator,
    settings: Settings,
    *,
    shuffled: bool = False,
) -> DataLoader[Any]:
    """Make a loader of a data set's batches on the device of a model.

    Parameters
    ----------
    model
        Says where the batches go.
    data, collator
        What a method's ``finish`` gets.
    settings
        Their ``training`` gives the batch size and the seed.
    shuffled
        Anew in each pass, the same for the same seed, as gradient steps want them; else in the
        data's order.

    Returns
    -------
    DataLoader
        Of keywords of the model; it leaves the global random state alone.
    """
    device = next(model.parameters()).device

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {name: value.to(device) for name, value in collator(rows).items()}

    return DataLoader(
        data,
        batch_size=settings.training.batch_size,
        shuffle=shuffled,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(settings.training.seed),
    )
