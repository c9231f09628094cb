from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict

from blob_pyro.base_model import load_causal_lm, load_tokenizer
from blob_pyro.guides import LowRankGaussianGuide, PointEstimateGuide
from blob_pyro.infer import kl_weight, posterior_predictive
from blob_pyro.lora import NormalPrior
from blob_pyro.recipe import PAPER, RECIPES, Recipe, torch_dtype
from blob_pyro.tasks import TextClassificationTask, collator_for
from blob_pyro.training import TrainingConfig

TASK = TextClassificationTask(
    "t",
    DatasetDict(train=Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [0, 1, 0, 1]})),
    ("login", "printing"),
)

DATA = TASK.splits["train"]


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
        model, guide, records = recipe.fine_tune(load_causal_lm(base_folder), tokenizer, TASK, DATA)
        assert isinstance(guide, guide_class)
        initial = {name: site.projection.initial_weight for name, site in model.sites.items()}
        seen[method] = (texts, initial, records)
    assert seen["mle"][0] == seen["blob"][0]
    for name, weight in seen["mle"][1].items():
        assert torch.equal(weight, seen["blob"][1][name])
    assert seen["mle"][2][0].kl_weight == 0
    assert seen["blob"][2][0].kl_weight > 0


def test_map_is_mle_with_the_priors_penalty(base_folder: str) -> None:
    training = TrainingConfig(num_steps=2, batch_size=2)
    recipe = Recipe(method="map", kl_scale=0.5, training=training)
    model, guide, records = recipe.fine_tune(
        load_causal_lm(base_folder), load_tokenizer(base_folder), TASK, DATA
    )
    assert isinstance(guide, PointEstimateGuide)
    assert [record.kl_weight for record in records] == [0.5, 0.5]
    # A point's "KL" is minus the log density of the prior.
    density = sum(
        torch.distributions.Normal(0.0, 0.2).log_prob(site.projection.initial_weight).sum()
        for site in model.sites.values()
    )
    assert records[0].kl == pytest.approx(-float(density), rel=1e-5)


@pytest.mark.parametrize("method", ["blob", "swag"])
def test_a_temperature_divides_logits_in_training_and_in_prediction(
    method: str, base_folder: str
) -> None:
    # A rate too small to move anything: only the temperature tells the programs apart.
    training = TrainingConfig(num_steps=1, batch_size=4, learning_rate=1e-30, flipout=False)
    seen = {}
    for temperature in (1.0, 4.0):
        recipe = Recipe(method=method, rank=2, temperature=temperature, training=training)
        if method == "swag":
            path = {"learning_rate": 1e-30, "num_steps": 2, "collect_every": 1, "num_deviations": 2}
            recipe = replace(recipe, options=path)
        model, guide, records = recipe.fine_tune(
            load_causal_lm(base_folder), load_tokenizer(base_folder), TASK, DATA
        )
        batch = collator_for(TASK, load_tokenizer(base_folder)).loader(DATA)
        logits = posterior_predictive(model, guide, batch, 0, progress=False)["logits"]
        seen[temperature] = (records[0].nll, logits)
    assert seen[4.0][0] != seen[1.0][0]
    torch.testing.assert_close(4 * seen[4.0][1], seen[1.0][1])


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_is_a_positive_number(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature={temperature} must be positive and finite"):
        Recipe(temperature=temperature)


def test_dtypes_of_the_command_line() -> None:
    assert torch_dtype("bf16") is torch.bfloat16
    assert torch_dtype("float32") is torch.float32


def test_the_papers_recipe_is_the_published_one(base_folder: str) -> None:
    assert RECIPES["paper"] is PAPER
    training = PAPER.training
    assert (training.num_steps, training.batch_size, training.warmup_fraction) == (5000, 4, 0.06)
    assert (training.learning_rate, training.kl_learning_rate) == (1e-4, 0.01)
    assert training.num_warmup_steps == 300
    short = replace(PAPER, training=replace(training, num_steps=2))
    _, guide, records = short.fine_tune(
        load_causal_lm(base_folder), load_tokenizer(base_folder), TASK, DATA
    )
    assert any("lm_head" in name for name in guide.sites)
    for site in guide.sites.values():
        assert site.projection.out_features == 8
        assert site.scaling == 2
        assert site.projection.prior == NormalPrior(0.2)
    roots = [scale.sqrt() for scale in guide.scale().values()]
    assert 0.03 < min(root.min() for root in roots) < max(root.max() for root in roots) < 0.051
    # A batch's mean loss plus lambda_i KL, over a cycle of 100 * 4 ** (pi / 8) / 4 = 43 batches.
    for record in records:
        assert record.kl_weight == pytest.approx(4 * kl_weight(record.step, 43, "blob"))
        assert record.loss == pytest.approx(
            record.nll / 4 + kl_weight(record.step, 43, "blob") * record.kl, rel=1e-5
        )


@pytest.mark.parametrize(("cycle", "num_batches"), [("epoch", 2), ("rescaled", 86)])
def test_the_length_of_a_cycle(cycle: Any, num_batches: int, base_folder: str) -> None:
    training = TrainingConfig(num_steps=1, batch_size=2)
    recipe = Recipe(cycle=cycle, schedule="blundell", kl_scale=0.1, training=training)
    _, _, records = recipe.fine_tune(
        load_causal_lm(base_folder), load_tokenizer(base_folder), TASK, DATA
    )
    wanted = 0.1 * num_batches * kl_weight(0, num_batches, "blundell")
    assert records[0].kl_weight == pytest.approx(wanted)
