"""Every method goes the same way: fitted by its name, saved, loaded, and predicted with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict

from blob_pyro.diagnostics import to_arviz
from blob_pyro.files import load_posterior, save_posterior
from blob_pyro.guides import EnsembleGuide, PointEstimateGuide
from blob_pyro.infer import posterior_predictive
from blob_pyro.networks import load_causal_lm, load_tokenizer
from blob_pyro.posthoc import fit_temperature
from blob_pyro.recipe import METHODS, Recipe, run_recipe
from blob_pyro.recipe.network import load_network
from blob_pyro.recipe.predictions import prediction_settings
from blob_pyro.tasks import TextClassificationTask, collator_for
from blob_pyro.training import TrainingConfig

TEXTS = [
    *("toner is out", "locked out", "jam in tray", "my password", "no paper", "who am I"),
    *("the phone printing", "my login", "the tray is out", "email locked", "a problem", "no email"),
]
TASK = TextClassificationTask(
    "t",
    DatasetDict(train=Dataset.from_dict({"text": TEXTS, "label": [0, 1] * 6})),
    ("login", "printing"),
)
DATA = TASK.splits["train"]


def fitted(base_folder: str, num_steps: int = 2, data: Any = DATA, **settings: Any) -> Any:
    # The rate is high, so that two steps take members of an ensemble apart.
    training = TrainingConfig(num_steps=num_steps, batch_size=2, learning_rate=0.1)
    recipe = Recipe(rank=2, training=training, **settings)
    network = load_network(base_folder, TASK, head=METHODS[recipe.method].needs_head)
    return run_recipe(recipe, network, load_tokenizer(base_folder), TASK, data)


def predicted(base_folder: str, model: Any, guide: Any, num_samples: int = 3) -> Any:
    scoring = Recipe().scoring_of(model.network.get_base_model())
    loader = collator_for(TASK, load_tokenizer(base_folder), scoring).loader(DATA)
    return posterior_predictive(model, guide, loader, num_samples, 0, progress=False)


@pytest.mark.filterwarnings("ignore:the temperature .* is not the best")
@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_fitted_saved_loaded_and_predicts(
    method: str, base_folder: str, tmp_path: Path
) -> None:
    if method == "ivon":
        pytest.importorskip("ivon", reason="the extra blob-pyro[ivon] is not installed")
    model, guide, records = fitted(base_folder, method=method)
    start = METHODS[method].starts_from
    if METHODS[method].objective == "none" and start is None:
        assert records == []
    else:
        assert len(records) == 2 * getattr(METHODS[method].options(), "num_members", 1)
    save_posterior(tmp_path / "p", model, guide)
    expected = predicted(base_folder, model, guide)
    loaded = load_posterior(tmp_path / "p")
    found = predicted(base_folder, *loaded)
    assert torch.equal(found["logits"], expected["logits"])
    # What was learned is told by a digest that a folder keeps.
    assert prediction_settings(*loaded, 3, 0) == prediction_settings(model, guide, 3, 0)
    assert expected["logits"].shape == (3, 12, 2)
    data = to_arviz(expected, class_names=list(TASK.class_names))
    assert hasattr(data, "log_likelihood")


def test_the_docs_have_a_row_for_each() -> None:
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    assert [name for name in METHODS if f"\n| `{name}` | " not in page] == []


def test_zero_shot_is_the_base_model(base_folder: str) -> None:
    model, guide, records = fitted(base_folder, method="zero_shot")
    assert (records, type(guide)) == ([], PointEstimateGuide)
    tokenizer = load_tokenizer(base_folder)
    loader = collator_for(TASK, tokenizer).loader(DATA)
    batch = next(iter(loader))
    found = posterior_predictive(model, guide, [batch], 0, progress=False)["logits"][0]
    with torch.no_grad():
        logits = (
            load_causal_lm(base_folder)
            .eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            .logits
        )
    last = (torch.arange(logits.shape[1]) * batch["attention_mask"]).argmax(dim=1)
    expected = logits[torch.arange(len(last)), last][:, list(model.label_token_ids)]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_an_ensemble_s_members_are_fits_of_other_seeds(base_folder: str) -> None:
    options = {"num_members": 2}
    model, guide, _ = fitted(base_folder, method="ens", options=options)
    assert isinstance(guide, EnsembleGuide)
    together = predicted(base_folder, model, guide, 2)["logits"]
    for member, seed in enumerate((0, 1000)):
        training = TrainingConfig(num_steps=2, batch_size=2, learning_rate=0.1, seed=seed)
        recipe = Recipe(method="mle", rank=2, training=training)
        alone = run_recipe(
            recipe, load_causal_lm(base_folder), load_tokenizer(base_folder), TASK, DATA
        )
        expected = predicted(base_folder, *alone[:2], 0)["logits"][0]
        torch.testing.assert_close(together[member], expected, atol=1e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_a_temperature_is_fitted_to_what_the_start_has_not_seen(base_folder: str) -> None:
    parts = DATA.train_test_split(test_size=0.2, seed=0)
    start = fitted(base_folder, data=parts["train"], method="mle")
    loader = collator_for(TASK, load_tokenizer(base_folder)).loader(parts["test"])
    unseen = posterior_predictive(*start[:2], loader, 0, progress=False)
    expected = fit_temperature(unseen["logits"], unseen["labels"]).float()
    model, _, _ = fitted(base_folder, method="temperature", start="mle")
    torch.testing.assert_close(model.temperature, expected, atol=1e-3, rtol=1e-3)
