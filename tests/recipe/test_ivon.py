from __future__ import annotations

import pytest
from datasets import Dataset, DatasetDict

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.networks import load_causal_lm, load_tokenizer
from blob_pyro.recipe import Recipe, run_recipe
from blob_pyro.tasks import TextClassificationTask
from blob_pyro.training import TrainingConfig

TEXTS = Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [0, 1, 0, 1]})
TASK = TextClassificationTask("t", DatasetDict(train=TEXTS), ("login", "printing"))


def test_a_recipe_trains_both_matrices(base_folder: str) -> None:
    pytest.importorskip("ivon")
    training = TrainingConfig(num_steps=3, batch_size=2)
    recipe = Recipe(method="ivon", rank=2, options={"beta2": 0.99}, training=training)
    model, guide, _ = run_recipe(
        recipe, load_causal_lm(base_folder), load_tokenizer(base_folder), TASK, TEXTS
    )
    assert type(guide) is LowRankGaussianGuide
    assert model.latent == ("A", "B")
    for name, scale in guide.scale().items():
        assert 0 < scale.min() < scale.max() < 0.3, name
