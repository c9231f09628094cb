from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset, DatasetDict

from blob_pyro.guides import SWAGGuide
from blob_pyro.networks import load_causal_lm, load_tokenizer
from blob_pyro.recipe import Recipe, run_recipe
from blob_pyro.tasks import TextClassificationTask
from blob_pyro.training import TrainingConfig

TEXTS = Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [0, 1, 0, 1]})
TASK = TextClassificationTask("t", DatasetDict(train=TEXTS), ("login", "printing"))
OPTIONS = {"num_steps": 6, "collect_every": 2, "num_deviations": 3}


def walked(base_folder: str, **settings: Any) -> Any:
    training = TrainingConfig(num_steps=3, batch_size=2)
    recipe = Recipe(method="swag", rank=2, options=OPTIONS, training=training, **settings)
    network, tokenizer = load_causal_lm(base_folder), load_tokenizer(base_folder)
    return run_recipe(recipe, network, tokenizer, TASK, TEXTS)


def test_a_recipe_goes_on_from_map_over_both_matrices(base_folder: str) -> None:
    model, guide, records = walked(base_folder)
    assert isinstance(guide, SWAGGuide)
    assert guide.model is model
    assert model.latent == ("A", "B")
    assert guide.num_deviations == 3
    # The fit that it starts from.
    assert len(records) == 3
    for name, scale in guide.scale().items():
        assert scale.min() > 0, name
    _, again, _ = walked(base_folder)
    for name, value in again.state_dict().items():
        assert torch.equal(value, guide.state_dict()[name])


def test_the_priors_penalty_counts_on_the_path(base_folder: str) -> None:
    # Under so strong a prior the weights of both matrices shrink along the path.
    _, weak, _ = walked(base_folder, kl_scale=0.0)
    _, strong, _ = walked(base_folder, kl_scale=1.0)
    norms = [
        sum(float(mean.norm()) for name, mean in guide.mean().items() if ".lora_A." in name)
        for guide in (weak, strong)
    ]
    assert norms[1] < 0.9 * norms[0]
