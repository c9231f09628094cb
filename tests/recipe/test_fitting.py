from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from blob_pyro.guides import LowRankGaussianGuide, PointEstimateGuide
from blob_pyro.infer import posterior_predictive
from blob_pyro.networks import load_causal_lm, load_tokenizer
from blob_pyro.recipe import Recipe, run_recipe
from blob_pyro.tasks import TextClassificationTask, collator_for
from blob_pyro.training import CheckpointConfig, StepRecord, TrainingConfig
from tests.models.architectures import base

TASK = TextClassificationTask(
    "t",
    DatasetDict(train=Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [0, 1, 0, 1]})),
    ("login", "printing"),
)

DATA = TASK.splits["train"]
SMALL_BERT: Any = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


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
        model, guide, records = run_recipe(
            recipe, load_causal_lm(base_folder), tokenizer, TASK, DATA
        )
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
    model, guide, records = run_recipe(
        recipe, load_causal_lm(base_folder), load_tokenizer(base_folder), TASK, DATA
    )
    assert isinstance(guide, PointEstimateGuide)
    assert [record.kl_weight for record in records] == [0.5, 0.5]
    # A point's "KL" is minus the log density of the prior.
    density = sum(
        torch.distributions.Normal(0.0, 0.2).log_prob(site.projection.initial_weight).sum()
        for site in model.sites.values()
    )
    assert records[0].kl == pytest.approx(-float(density), rel=1e-5)


@pytest.mark.parametrize("start", ["mle", "blob"])
def test_members_with_heads_are_fitted_as_if_each_were_alone(start: str) -> None:
    def network() -> Any:
        torch.manual_seed(3)
        config = BertConfig(vocab_size=40, num_labels=2, initializer_range=0.5, **SMALL_BERT)
        # Adam magnifies rounding.
        return BertForSequenceClassification(config).double()

    words = WordLevel({"[PAD]": 0, "a": 1, "b": 2, "c": 3, "d": 4}, unk_token="[PAD]")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), pad_token="[PAD]", model_max_length=8
    )
    training = TrainingConfig(num_steps=3, batch_size=2, learning_rate=0.05)
    recipe = Recipe(method="ens", start=start, rank=2, training=training, init_scale=0.1)
    batches = collator_for(TASK, tokenizer, "head").loader(DATA)

    def logits(one: Recipe, num_samples: int) -> torch.Tensor:
        program = run_recipe(one, network(), tokenizer, TASK, DATA)[:2]
        return posterior_predictive(*program, batches, num_samples, 0, progress=False)["logits"]

    found = logits(recipe, 3)
    assert (found[0] - found[1]).abs().max() > 0.1
    if start == "mle":
        alone = [logits(each, 0)[0] for each in recipe.start_recipes()]
        torch.testing.assert_close(found, torch.stack(alone), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["blob", "swag"])
def test_a_temperature_divides_logits_in_training_and_in_prediction(
    method: str, base_folder: str
) -> None:
    # A rate too small to move anything: only the temperature tells the programs apart.
    training = TrainingConfig(num_steps=1, batch_size=4, learning_rate=1e-30, flipout=False)
    seen = {}
    for temperature in (1.0, 4.0):
        recipe = Recipe(method=method, rank=2, logit_temperature=temperature, training=training)
        if method == "swag":
            path = {"learning_rate": 1e-30, "num_steps": 2, "collect_every": 1, "num_deviations": 2}
            recipe = recipe.changed(options=path)
        network, tokenizer = load_causal_lm(base_folder), load_tokenizer(base_folder)
        model, guide, records = run_recipe(recipe, network, tokenizer, TASK, DATA)
        batch = collator_for(TASK, load_tokenizer(base_folder)).loader(DATA)
        logits = posterior_predictive(model, guide, batch, 0, progress=False)["logits"]
        seen[temperature] = (records[0].nll, logits)
    assert seen[4.0][0] != seen[1.0][0]
    torch.testing.assert_close(4 * seen[4.0][1], seen[1.0][1])


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "zero_shot"},
        {"method": "ens", "start": "zero_shot"},
    ],
    ids=str,
)
def test_checkpoints_that_would_hold_nothing_are_refused(settings: Any, tmp_path: Path) -> None:
    checkpoints = CheckpointConfig(tmp_path / "c", 1)
    message = rf"method '{settings['method']}' takes no steps, .* leave checkpoints \(--save-every"
    with pytest.raises(ValueError, match=message):
        run_recipe(Recipe(**settings), None, None, TASK, DATA, checkpoints=checkpoints)  # type: ignore[arg-type]
    assert not (tmp_path / "c").exists()


def test_steps_from_a_start_are_saved_beside_it(base_folder: str, tmp_path: Path) -> None:
    training = TrainingConfig(num_steps=2, batch_size=2)
    options = {"num_steps": 4, "collect_every": 1, "num_deviations": 2}
    recipe = Recipe(method="swag", rank=2, options=options, training=training)

    def run(resume: bool, stop: int | None = None) -> Any:
        def on_step(record: StepRecord) -> None:
            seen.append(record)
            if len(seen) == stop:
                raise KeyboardInterrupt

        seen: list[StepRecord] = []
        network, tokenizer = load_causal_lm(base_folder), load_tokenizer(base_folder)
        checkpoints = CheckpointConfig(tmp_path, 1, resume=resume)
        _, guide, records = run_recipe(
            recipe, network, tokenizer, TASK, DATA, checkpoints=checkpoints, on_step=on_step
        )
        return guide.state_dict(), records, seen

    with pytest.raises(KeyboardInterrupt):
        run(resume=False, stop=5)
    assert any((tmp_path / "member-0").iterdir())
    state, records, seen = run(resume=True)
    # The third step of the walk was not saved yet.
    assert [record.step for record in seen] == [2, 3]
    again, same, none = run(resume=True)
    assert (same, none) == (records, [])
    assert all(torch.equal(again[name], value) for name, value in state.items())


def test_rows_that_all_texts_share_are_trained_without_flipout_and_it_is_said(
    tokenizer: Any,
) -> None:
    def fitted(**options: Any) -> Any:
        training = TrainingConfig(num_steps=2, batch_size=2, **options)
        network = base("DebertaV2ForSequenceClassification")
        return run_recipe(Recipe(rank=2, training=training), network, tokenizer, TASK, DATA)[2]

    with pytest.warns(UserWarning, match=r"trained without flipout.*query_proj.*target_modules"):
        records = fitted()
    assert [record.loss for record in records] == [r.loss for r in fitted(flipout=False)]
