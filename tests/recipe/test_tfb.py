"""Training-free Bayesianisation from a recipe: the search around what MAP finds."""

from __future__ import annotations

from datasets import Dataset, DatasetDict
from torch.utils.data import DataLoader

from blob_pyro.guides import TFBGuide, model_at_mean
from blob_pyro.networks import load_causal_lm, load_tokenizer
from blob_pyro.posthoc import tfb
from blob_pyro.recipe import Recipe, run_recipe
from blob_pyro.tasks import TextClassificationTask, collator_for
from blob_pyro.training import TrainingConfig

TASK = TextClassificationTask(
    "t",
    DatasetDict(train=Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 0]})),
    ("login", "printing"),
)


def test_it_is_the_search_around_map(base_folder: str) -> None:
    training = TrainingConfig(num_steps=3, batch_size=2, learning_rate=0.05, seed=5)
    tokenizer = load_tokenizer(base_folder)
    options = {"tolerance": 1e-4, "num_samples": 2}
    programs = {}
    for method, given in (("map", {}), ("tfb", options)):
        recipe = Recipe(method=method, options=given, rank=2, training=training)
        data = TASK.splits["train"]
        programs[method] = run_recipe(recipe, load_causal_lm(base_folder), tokenizer, TASK, data)
    model, guide, records = programs["tfb"]
    assert isinstance(guide, TFBGuide)
    assert model.latent == ("A",)
    assert len(records) == 3
    around = model_at_mean(*programs["map"][:2], latent=("A",))
    loader = DataLoader(data, 2, collate_fn=collator_for(TASK, tokenizer))
    expected = tfb(around, loader, tolerance=1e-4, num_samples=2, seed=5, progress=False)
    assert guide.config() == expected.config()
