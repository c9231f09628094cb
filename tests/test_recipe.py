from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset, DatasetDict

from blob_pyro.base_model import load_causal_lm, load_tokenizer
from blob_pyro.guides import LowRankGaussianGuide, PointEstimateGuide
from blob_pyro.recipe import Recipe, task_record, torch_dtype
from blob_pyro.tasks import TextClassificationTask
from blob_pyro.training import TrainingConfig

TASK = TextClassificationTask(
    "t",
    DatasetDict(train=Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [0, 1, 0, 1]})),
    ("login", "printing"),
)


def test_both_methods_see_the_same_adapter_and_batches(base_folder: str) -> None:
    seen = {}
    for method, guide_class in (("mle", PointEstimateGuide), ("blob", LowRankGaussianGuide)):
        recipe = Recipe(method=method, rank=2, training=TrainingConfig(num_steps=1, batch_size=2))
        tokenizer: Any = load_tokenizer(base_folder)
        texts: list[str] = []
        plain = tokenizer.__class__.__call__

        def spy(self: Any, text: Any, **options: Any) -> Any:
            if options.get("padding"):
                texts.extend(text)  # noqa: B023
            return plain(self, text, **options)  # noqa: B023

        tokenizer.__class__ = type("Spy", (tokenizer.__class__,), {"__call__": spy})
        model, guide, records = recipe.fine_tune(load_causal_lm(base_folder), tokenizer, TASK)
        assert isinstance(guide, guide_class)
        initial = {name: site.projection.initial_weight for name, site in model.sites.items()}
        seen[method] = (texts, initial, records)
    assert seen["mle"][0] == seen["blob"][0]
    for name, weight in seen["mle"][1].items():
        assert torch.equal(weight, seen["blob"][1][name])
    assert seen["mle"][2][0].kl_weight == 0
    assert seen["blob"][2][0].kl_weight > 0


def test_a_task_is_recorded_as_json_values() -> None:
    assert task_record(TASK)["class_names"] == ["login", "printing"]


def test_dtypes_of_the_command_line() -> None:
    assert torch_dtype("bf16") is torch.bfloat16
    assert torch_dtype("float32") is torch.float32
