from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset

from blob_pyro.recipe import Recipe
from blob_pyro.recipe.methods import example_batches
from blob_pyro.training import TrainingConfig

DATA = Dataset.from_dict({"number": list(range(7))})


def collator(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {"numbers": torch.tensor([row["number"] for row in rows])}


def test_batches_come_in_the_order_of_the_data() -> None:
    loader = example_batches(DATA, collator, Recipe(training=TrainingConfig(batch_size=3, seed=5)))
    for _ in range(2):
        assert [batch["numbers"].tolist() for batch in loader] == [[0, 1, 2], [3, 4, 5], [6]]


def test_the_global_random_state_is_left_alone() -> None:
    loader = example_batches(DATA, collator, Recipe(training=TrainingConfig(batch_size=4)))
    state = torch.get_rng_state()
    assert len([*loader]) == 2
    assert torch.equal(torch.get_rng_state(), state)
