from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blob_pyro.recipe import load

ROWS = ["no toner,printing", "jam in tray,printing", "locked out,login", "my password,login"]


@pytest.fixture
def train(tmp_path: Path, base_folder: str, invoke: Callable[..., Any]) -> Callable[..., Any]:
    """Train on a user's own twelve texts."""
    data = tmp_path / "tickets.csv"
    rows = [f"{i} {row}" for i in range(3) for row in ROWS]
    data.write_text("\n".join(["text,label", *rows]))
    arguments = ["--data", str(data), "--model", base_folder, "--num-steps", "2", "--set", "rank=2"]

    def run(*options: str) -> Any:
        return invoke(
            "train", *arguments, "--output-dir", str(tmp_path / "out"), "--num-samples", "2",
            *options,
        )  # fmt: skip

    return run


def test_early_stopping_by_held_out_texts(train: Callable[..., Any], tmp_path: Path) -> None:
    result = train("--set", "validate_every=1", "--validation-fraction", "0.3")
    assert result.exit_code == 0, result.output
    assert "tickets, validation: 3 of 10 rows held out" in result.stderr
    assert "kept the state after step " in result.stderr
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| accuracy |" in card
    assert "7 training examples" in card


def test_the_next_command_has_the_columns_of_this_one(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    data = tmp_path / "tickets.csv"
    data.write_text(data.read_text().replace("text,label", "the body,label"))
    result = train("--text-column", "the body", "--num-steps", "1")
    assert "evaluate " in result.stderr
    assert result.stderr.endswith("--data FILE --text-column 'the body'\n")


def test_a_fraction_without_a_use_is_refused(train: Callable[..., Any], tmp_path: Path) -> None:
    result = train("--validation-fraction", "0.3")
    assert result.exit_code == 2
    assert "set validate_every too, or leave it out" in result.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_measured_has_its_number_and_interval_and_advice(
    train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def advise(records: Any, num_data: int, logits: Any, labels: Any) -> str:
        given.extend([len(records), num_data, logits.shape, len(labels)])
        return "give more steps"

    monkeypatch.setattr("blob_pyro.diagnostics.fit_advice", advise)
    result = train()
    assert result.exit_code == 0, result.output
    # Two steps on ten of twelve texts, two draws for the other two, two classes.
    assert given == [2, 10, (2, 2, 2), 2]
    assert "blob-pyro: give more steps" in result.stderr
    assert re.search(r"tickets *│ 2 +│ \d\.\d{3}", result.stdout)
    assert result.stdout.count("[") == 4


def test_a_folder_that_could_not_be_saved_to_is_refused_before_training(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    # What would be trained is not there, so that this is refused first.
    result = train("--model", "absent", "--output-dir", "/proc/posterior")
    assert result.exit_code == 2
    assert "/proc/posterior cannot be written (No such file or directory: " in result.stderr


def test_the_current_folder_is_refused_if_it_holds_something(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = train("--output-dir", ".")
    assert result.exit_code == 2
    assert ". exists and is not a posterior; give a new folder" in result.stderr


@pytest.mark.parametrize("command", [["demo", "--model", "absent"], ["benchmark", "{config}"]])
def test_what_takes_long_tries_its_folder_first(
    command: list[str], tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    config = tmp_path / "b.yaml"
    config.write_text("model: absent\ntasks: {helpdesk: {}}\nmethods: {mle: {method: mle}}\n")
    arguments = [argument.replace("{config}", str(config)) for argument in command]
    result = invoke(*arguments, "--output-dir", "/proc/results")
    assert result.exit_code == 2
    assert "cannot be written (No such file or directory: " in result.stderr


def test_a_posterior_is_replaced_only_if_that_is_asked_for(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert train().exit_code == 0
    old = (tmp_path / "out" / "posterior.safetensors").read_bytes()
    result = train("--model", "absent", "--output-dir", "~/out")
    assert result.exit_code == 2
    assert "out holds a posterior; give another folder, or --overwrite" in result.stderr
    assert train("--output-dir", "~/out", "--seed", "1", "--overwrite").exit_code == 0
    assert (tmp_path / "out" / "posterior.safetensors").read_bytes() != old
    assert not Path("~").exists()


def test_a_threshold_is_chosen_on_the_rows_that_are_held_out(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    refused = train("--max-error", "0.1", "--test-fraction", "0")
    assert refused.exit_code == 2
    assert "--max-error needs test examples, and none are held out from tickets" in refused.stderr
    assert not (tmp_path / "out").exists()
    impossible = train("--max-error", "0.1")
    assert impossible.exit_code == 2
    assert "of 2 held-out examples" in impossible.stderr
    assert load(tmp_path / "out").answers is None
    result = train("--max-error", "0.99", "--test-fraction", "0.5", "--overwrite")
    assert result.exit_code == 0, result.output
    answers = load(tmp_path / "out").answers
    assert answers is not None
    assert (answers.num_examples, answers.num_samples) == (6, 2)


def test_a_quantised_base_model(
    train: Callable[..., Any], tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    result = train("--quantization", "4bit")
    assert result.exit_code == 0, result.output
    assert "quantised by bitsandbytes" in repr(load(tmp_path / "out"))
    predicted = invoke("predict", str(tmp_path / "out"), "no toner", "--num-samples", "2")
    assert predicted.exit_code == 0, predicted.output
