from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from huggingface_hub import ModelCard

from blob_pyro.diagnostics import answer_thresholds
from blob_pyro.recipe import load
from blob_pyro.recipe.predictions import load_predictions
from blob_pyro.tasks import TEXT_TASKS, helpdesk


def test_messages_out_of_scope_have_an_auroc_and_no_accuracy(
    posterior: str, invoke: Callable[..., Any]
) -> None:
    result = invoke(
        "evaluate", posterior, "--ood", "helpdesk_out_of_scope", "--limit", "20",
        "--num-samples", "2",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "helpdesk, test: 20 of 200 rows" in result.stderr
    inside, outside = (
        load_predictions(Path(posterior) / "evaluations" / f"{name}-draws2-seed0.npz")
        for name in ("helpdesk", "helpdesk_out_of_scope")
    )
    assert outside.labels.tolist() == [-1] * 20
    table = result.stdout.splitlines()
    (row,) = (line for line in table if "helpdesk_out_of_scope" in line and "AUROC" not in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][1:] == ["20", *[""] * 4]
    (head,) = (line for line in table if "AUROC, from helpdesk" in line)
    assert "helpdesk_out_of_scope" in head
    intervals = inside.ood_intervals(outside)
    for name, area in inside.ood_auroc(outside).items():
        low, high = intervals[name]
        (row,) = (line for line in table if name in line)
        assert f"{area:.3f} [{low:.3f}, {high:.3f}]" in row
    assert "feature_distance" in result.stdout
    picture = Path(posterior) / "evaluations" / "helpdesk_out_of_scope-draws2-seed0.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("content", ["text\nwho won?\nis it late?\n", "id,text\n1,one\n2,two\n"])
def test_a_file_of_strangers_needs_no_labels(
    content: str, posterior: str, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    path = tmp_path / "strangers.csv"
    path.write_text(content)
    options = ["--limit", "2", "--num-samples", "1"]
    result = invoke("evaluate", posterior, "--ood", str(path), *options)
    assert result.exit_code == 0, result.output
    kept = load_predictions(Path(posterior) / "evaluations" / "strangers-draws1-seed0.npz")
    assert kept.labels.tolist() == [-1, -1]
    # One draw has none.
    assert "mutual_information" not in result.stdout


def test_texts_with_other_classes_are_out_of_distribution(
    posterior: str, invoke: Callable[..., Any]
) -> None:
    recorded = str(Path(__file__).parents[1] / "tasks" / "recorded")
    # Its recorded rows are those of training.
    (Path(posterior) / "glue" / "cola").mkdir(parents=True)
    rows = (Path(recorded) / "glue" / "cola" / "train.jsonl").read_text()
    (Path(posterior) / "glue" / "cola" / "validation.jsonl").write_text(rows)
    result = invoke(
        "evaluate", posterior, "--ood", "glue_cola", "--data-dir", posterior, "--num-samples", "2"
    )
    assert result.exit_code == 0, result.output
    kept = load_predictions(Path(posterior) / "evaluations" / "glue_cola-draws2-seed0.npz")
    assert (kept.labels == -1).all()
    assert np.isfinite(kept.logits).all()
    assert kept.logits.shape[2] == 10


def test_a_task_of_known_classes_is_measured(posterior: str, invoke: Callable[..., Any]) -> None:
    result = invoke("evaluate", posterior, "--task", "helpdesk", "--num-samples", "0")
    assert result.exit_code == 0, result.output
    assert "accuracy" in result.stdout


def test_the_name_of_a_task_is_no_path(
    posterior: str, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    path = Path(posterior) / "posterior_config.json"
    config = json.loads(path.read_text())
    source = {"path": "nyu-mll/glue", "config": "cola", "splits": {"test": "train"}}
    config["task"] |= {"name": "../../evil/x", "source": {**source, "text": "{sentence}"}}
    path.write_text(json.dumps(config))
    before = {path.name for path in tmp_path.iterdir()}
    recorded = Path(__file__).parents[1] / "tasks" / "recorded"
    result = invoke("evaluate", posterior, "--data-dir", str(recorded), "--num-samples", "1")
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == before
    written = {path.name for path in (Path(posterior) / "evaluations").iterdir()}
    assert written == {f".._.._evil_x-draws1-seed0.{ending}" for ending in ("npz", "png")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "helpdesk", "--data", "a.csv"], "--task and --data exclude each other"),
        (["--data", "{csv}", "--data-dir", "x"], "--data-dir holds the rows of --task or --ood"),
        (["--data-dir", "x"], "but those of helpdesk are elsewhere; leave it out"),
        (["--ood", "helpdesk"], "two data sets are called helpdesk; leave one out"),
        (["--ood", "{csv}", "--text-column", "body"], "own.csv: has no column 'body' but"),
        (["--task", "openbookqa"], "so openbookqa, which has questions, does not fit"),
        (["--task", "helpdesk_out_of_scope"], "helpdesk_out_of_scope has no labels, so"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: list[str], message: str, posterior: str, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    csv = tmp_path / "own.csv"
    csv.write_text("text,label\nthe login,login\nmy phone,phone\n")
    result = invoke("evaluate", posterior, *(each.replace("{csv}", str(csv)) for each in options))
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_texts_that_are_not_there_are_asked_for(saved: Any, invoke: Callable[..., Any]) -> None:
    task = TEXT_TASKS["glue_rte"]
    own = type(task)("tickets", task.splits, ("login", "phone"))
    result = invoke("evaluate", saved(own))
    assert result.exit_code == 2
    assert "was fitted to tickets, whose texts are not saved with it; give texts" in result.stderr


def test_the_card_gets_the_metrics_in_distribution(
    posterior: str, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    options = ["--ood", "helpdesk_out_of_scope", "--limit", "9", "--num-samples", "2"]
    before = (Path(posterior) / "README.md").read_text()
    result = invoke("evaluate", posterior, *options, "--output-dir", str(tmp_path / "elsewhere"))
    assert result.exit_code == 0, result.output
    assert (Path(posterior) / "README.md").read_text() == before
    assert invoke("evaluate", posterior, *options).exit_code == 0
    kept = load_predictions(Path(posterior) / "evaluations" / "helpdesk-draws2-seed0.npz")
    card = ModelCard.load(Path(posterior) / "README.md", repo_type="model")
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == pytest.approx(kept.metrics())
    assert {result.dataset_name for result in card.data.eval_results} == {"helpdesk"}


def test_metrics_are_printed_even_if_they_cannot_be_written(
    posterior: str, invoke: Callable[..., Any]
) -> None:
    result = invoke(
        "evaluate", posterior, "--limit", "9", "--num-samples", "0", "--output-dir", "/proc/x"
    )
    assert result.exit_code == 2
    assert "blob-pyro: [Errno 2] No such file or directory: '/proc/x'" in result.stderr
    assert "accuracy" in result.stdout


def test_a_file_with_one_of_the_known_classes_is_measured(
    posterior: str, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    path = tmp_path / "logins.csv"
    path.write_text("text,label\nthe login,login\nmy login,login\n")
    result = invoke("evaluate", posterior, "--data", str(path), "--num-samples", "2")
    assert result.exit_code == 0, result.output
    kept = load_predictions(Path(posterior) / "evaluations" / "logins-draws2-seed0.npz")
    assert set(kept.labels) == {helpdesk().class_names.index("login")}


@pytest.fixture
def answered(posterior: str, tmp_path: Path) -> Path:
    """A file of other texts, with the answers of a posterior as labels, a few of them changed."""
    texts = [f"{text} again" for text in helpdesk().splits["test"]["text"]]
    found = load(posterior).predictive(texts, num_samples=2)
    names, labels = helpdesk().class_names, found.classes.copy()
    for row in found.probabilities.max(axis=1).argsort()[:20]:
        labels[row] = names[names.index(labels[row]) - 1]
    path = tmp_path / "held_out.csv"
    pandas.DataFrame({"text": texts, "label": labels}).to_csv(path, index=False)
    return path


def test_a_threshold_is_chosen_shown_and_kept(
    posterior: str, answered: Path, invoke: Callable[..., Any]
) -> None:
    options = ["--data", str(answered), "--num-samples", "2"]
    result = invoke("evaluate", posterior, *options, "--max-error", "0.05")
    assert result.exit_code == 0, result.output
    answers = load(posterior).answers
    assert answers is not None
    kept = load_predictions(Path(posterior) / "evaluations" / "held_out-draws2-seed0.npz")
    assert answers.errors == answer_thresholds(kept.logits, kept.labels).errors
    assert f"{posterior} answers from a probability of {answers.threshold:.4f} on" in result.stderr
    assert "100.0%   │ 10.0% (20 of 200)" in result.stdout
    assert (Path(posterior) / "evaluations" / "held_out-draws2-seed0.png").is_file()
    card = (Path(posterior) / "README.md").read_text()
    # The card keeps the metrics of before.
    assert "| answers | from a probability of" in card
    assert "| accuracy | 0.9000 |" in card
    json_line = invoke("predict", posterior, "the login", "--num-samples", "2", "--json").stdout
    row = json.loads(json_line)
    sure = max(row["probabilities"].values()) >= answers.threshold
    assert row["decision"] == ("answer" if sure else "defer")
    other = invoke("predict", posterior, "the login", "--num-samples", "3", "--json")
    assert "decision" not in json.loads(other.stdout)
    assert "nothing is decided: the threshold was chosen for 2 draws" in other.stderr
    shown = invoke("predict", posterior, "the login", "--num-samples", "2", "--max-error", "0.2")
    assert "decision" in shown.stdout
    assert invoke("evaluate", posterior, *options).exit_code == 0
    assert load(posterior).answers == answers


def test_a_threshold_that_no_bound_reaches_is_said(
    posterior: str, answered: Path, invoke: Callable[..., Any]
) -> None:
    options = ["--data", str(answered), "--num-samples", "2", "--max-error", "0.01"]
    result = invoke("evaluate", posterior, *options)
    assert result.exit_code == 2
    assert "597 answers without an error would be enough" in result.stderr
    assert "accuracy" in result.stdout
    assert load(posterior).answers is None


def test_a_file_that_is_called_like_the_training_data_is_noticed(
    posterior: str, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    path = tmp_path / "helpdesk.csv"
    path.write_text("text,label\nthe login,login\nmy phone,phone\n")
    result = invoke("evaluate", posterior, "--data", str(path), "--num-samples", "0")
    assert result.exit_code == 0, result.output
    assert "has the name of the file that" in result.stderr
