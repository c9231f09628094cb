"""Laplace-LoRA from a recipe: the curvature around what MAP finds with the same seed."""

from __future__ import annotations

from datasets import Dataset, DatasetDict
from torch.utils.data import DataLoader

from blob_pyro.guides import LaplaceGuide, model_at_mean
from blob_pyro.networks import load_causal_lm, load_tokenizer
from blob_pyro.posthoc import laplace
from blob_pyro.recipe import Recipe, run_recipe
from blob_pyro.tasks import TextClassificationTask, collator_for
from blob_pyro.training import TrainingConfig

TASK = TextClassificationTask(
    "t",
    DatasetDict(train=Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 0]})),
    ("login", "printing"),
)


def test_it_is_the_curvature_around_map(base_folder: str) -> None:
    training = TrainingConfig(num_steps=3, batch_size=2, learning_rate=0.05)
    tokenizer = load_tokenizer(base_folder)
    programs = {}
    for method, options in (("map", {}), ("lap", {"max_rank": 4, "predictive": "probit"})):
        recipe = Recipe(method=method, options=options, rank=2, training=training)
        data = TASK.splits["train"]
        programs[method] = run_recipe(recipe, load_causal_lm(base_folder), tokenizer, TASK, data)
    model, guide, records = programs["lap"]
    assert isinstance(guide, LaplaceGuide)
    assert (guide.max_rank, guide.predictive, model.latent) == (4, "probit", ("A", "B"))
    assert len(records) == 3
    around = model_at_mean(*programs["map"][:2])
    loader = DataLoader(data, 2, collate_fn=collator_for(TASK, tokenizer))
    expected = laplace(around, loader, max_rank=4, progress=False)
    assert guide.prior_precision == expected.prior_precision
    for name, value in expected.state_dict().items():
        assert (guide.state_dict()[name] == value).all(), name
