from __future__ import annotations

import pytest
from datasets import Dataset, DatasetDict

from blob_pyro.guides import ScalaBLGuide
from blob_pyro.networks import load_causal_lm, load_tokenizer
from blob_pyro.recipe import Recipe, run_recipe
from blob_pyro.tasks import TextClassificationTask
from blob_pyro.training import TrainingConfig

TEXTS = Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [0, 1, 0, 1]})
TASK = TextClassificationTask("t", DatasetDict(train=TEXTS), ("login", "printing"))


@pytest.mark.parametrize("kl_learning_rate", [None, 0.01])
def test_a_recipe_fits_it(kl_learning_rate: float | None, base_folder: str) -> None:
    # flipout is on by default, which the method has to turn off.
    training = TrainingConfig(num_steps=3, batch_size=2, kl_learning_rate=kl_learning_rate)
    recipe = Recipe(method="scalabl", rank=2, init_scale=0.09, training=training)
    model, guide, records = run_recipe(
        recipe, load_causal_lm(base_folder), load_tokenizer(base_folder), TASK, TEXTS
    )
    assert isinstance(guide, ScalaBLGuide)
    assert guide.init_scale == 0.09
    assert model.latent == ("A",)
    assert all(root.shape == (2,) for _, root in guide.G.items())
    assert records[-1].kl > 0
