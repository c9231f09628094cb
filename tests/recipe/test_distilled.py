"""A distilled posterior by its method's name, as an object, on disk, and without this library."""

from __future__ import annotations

import ast
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    pipeline,
)

import blob_pyro
from blob_pyro import posthoc
from blob_pyro.diagnostics import dirichlet_mutual_information
from blob_pyro.guides import DirichletGuide, LowRankGaussianGuide
from blob_pyro.models import CausalLM
from blob_pyro.posthoc import distill_text
from blob_pyro.recipe import Recipe
from blob_pyro.recipe.predictions import load_predictions
from blob_pyro.tasks import InstructionCollator
from blob_pyro.testing import ENCODER, tiny_network, tiny_tokenizer
from blob_pyro.training import TrainingConfig

TEXTS = ["a", "b", "c", "d", "a b", "c d"]
LABELS = ["printing", "login", "printing", "login", "printing", "login"]
SETTINGS: dict[str, Any] = {"rank": 2, "num_steps": 6, "batch_size": 2, "progress": False}


@pytest.fixture
def encoder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> str:
    folder = str(tmp_path / "encoder")
    config = BertConfig(**{**ENCODER, "vocab_size": len(tokenizer), "num_labels": 2})
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def teacher(encoder: str) -> blob_pyro.Posterior:
    return blob_pyro.fine_tune(TEXTS, encoder, LABELS, learning_rate=0.05, **SETTINGS)


def distilled(teacher: blob_pyro.Posterior, **settings: Any) -> blob_pyro.Posterior:
    given = {"num_steps": 6, "batch_size": 2, "progress": False, "num_samples": 4, **settings}
    return teacher.distill([*TEXTS, "b d"], **given)


def test_a_teacher_is_as_before(teacher: blob_pyro.Posterior) -> None:
    before = teacher.predictive(TEXTS, progress=False).logits
    student = distilled(teacher)
    np.testing.assert_array_equal(teacher.predictive(TEXTS, progress=False).logits, before)
    assert student.model.num_data == 7
    assert isinstance(student.guide, DirichletGuide)


def test_a_student_tells_strangers_by_its_closed_form(teacher: blob_pyro.Posterior) -> None:
    student = distilled(teacher)
    with pytest.warns(UserWarning, match="no feature distance") as warned:
        found = student.evaluate(TEXTS, LABELS, ood=["b d", "d a"], progress=False)
    assert len(warned) == 1
    assert [*found.ood_auroc()] == ["entropy", "mutual_information", "max_probability"]
    known, strange = found.epistemic_uncertainty, found.ood.epistemic_uncertainty
    wins = np.mean(strange[:, None] > known) + np.mean(strange[:, None] == known) / 2
    assert found.ood_auroc()["mutual_information"] == pytest.approx(wins)


def test_one_pass_gives_the_closed_form_before_and_after_loading(
    teacher: blob_pyro.Posterior, tmp_path: Path
) -> None:
    student = distilled(teacher)
    predictions = student.predictive(TEXTS, num_samples=10, progress=False)
    assert predictions.logits.shape == (1, 6, 2)
    c = student.guide.config()["log_precision"]
    expected = dirichlet_mutual_information(predictions.logits[0].astype(float) + c)
    np.testing.assert_allclose(predictions.epistemic_uncertainty, expected)
    assert (expected > 0).all()
    student.save(tmp_path / "plain")
    loaded = blob_pyro.load(tmp_path / "plain")
    again = loaded.predictive(TEXTS, num_samples=0, progress=False)
    np.testing.assert_array_equal(again.logits, predictions.logits)
    np.testing.assert_array_equal(again.epistemic_uncertainty, expected)
    again.save(tmp_path / "kept.npz")
    kept = load_predictions(tmp_path / "kept.npz")
    np.testing.assert_array_equal(kept.epistemic_uncertainty, expected)


def test_unmodified_libraries_give_the_same_probabilities(
    teacher: blob_pyro.Posterior, encoder: str, tmp_path: Path
) -> None:
    student = distilled(teacher, learning_rate=0.05)
    student.save(tmp_path / "plain")
    expected = student.predict_proba(TEXTS)
    names = {"id2label": {0: "login", 1: "printing"}, "label2id": {"login": 0, "printing": 1}}
    base = AutoModelForSequenceClassification.from_pretrained(encoder, **names)
    net = PeftModel.from_pretrained(base, str(tmp_path / "plain")).eval()
    merged = tmp_path / "merged"
    blob_pyro.merge_mean(student.model, student.guide).save_pretrained(merged)
    for network in (net, AutoModelForSequenceClassification.from_pretrained(merged)):
        classify = pipeline("text-classification", network, tokenizer=teacher.tokenizer, top_k=None)
        for text, wanted in zip(TEXTS, expected, strict=True):
            (found,) = classify([text])
            assert {row["label"] for row in found} == {"login", "printing"}
            by_name = {row["label"]: row["score"] for row in found}
            np.testing.assert_allclose([by_name["login"], by_name["printing"]], wanted, atol=1e-5)


@pytest.mark.parametrize("start", ["blob", "lap", "mcd"])
def test_by_name_from_any_start_that_draws(encoder: str, start: str) -> None:
    steps: list[Any] = []
    student = blob_pyro.fine_tune(
        TEXTS, encoder, LABELS, method="distilled", start=start, on_step=steps.append, **SETTINGS
    )
    assert student.method == "distilled"
    assert len(steps) == 12
    assert Recipe(method="distilled", start=start).changed(num_steps=6).num_steps == 12
    assert (student.predictive(TEXTS, progress=False).epistemic_uncertainty > 0).all()


def test_an_ensemble_is_taught(base_folder: str) -> None:
    options: dict[str, Any] = {"method": "distilled", "start": "ens"}
    student = blob_pyro.fine_tune(TEXTS, base_folder, LABELS, **options, **SETTINGS)
    assert student.predictive(TEXTS, progress=False).logits.shape == (1, 6, 2)
    with torch.no_grad():
        assert student.model.temperature == 1


def test_what_has_no_draws_is_refused(teacher: blob_pyro.Posterior) -> None:
    with pytest.raises(ValueError, match="start='mle' has no draws"):
        Recipe(method="distilled", start="mle")
    student = distilled(teacher)
    with pytest.raises(ValueError, match="has no draws that a student could learn from"):
        distilled(student)
    for call in (student.calibrate, student.to_arviz):
        with pytest.raises(ValueError, match="the posterior that it was distilled from"):
            call(TEXTS, LABELS)
    with pytest.raises(ValueError, match="the posterior that it was distilled from"):
        posthoc.calibrate(student.classifier, student.guide, [])
    assert student.classifier.temperature == 1


def test_the_command_reads_the_lines_that_predict_reads(
    teacher: blob_pyro.Posterior, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from blob_pyro.cli.app import app

    teacher.save(tmp_path / "teacher")
    command = ["distill", str(tmp_path / "teacher"), "--output-dir", str(tmp_path / "plain")]
    lines = "\n".join(["a", json.dumps({"text": "b d", "id": 7}), "c"])
    found = CliRunner().invoke(app, [*command, "--num-steps", "2"], input=lines)
    assert found.exit_code == 0, found.output
    student = blob_pyro.load(tmp_path / "plain")
    assert (student.method, student.model.num_data) == ("distilled", 3)
    found = CliRunner().invoke(app, [*command, "--overwrite"], input="")
    assert found.exit_code == 2
    assert "holds no texts" in found.output
    for name, text in (("tickets", "a"), ("others", "b d")):
        (tmp_path / f"{name}.csv").write_text(f"body\n{text}\n")
        command += ["--data", str(tmp_path / f"{name}.csv")]
    command += ["--text-column", "body", "--num-steps", "2", "--overwrite"]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.output
    assert blob_pyro.load(tmp_path / "plain").model.num_data == 2


def page_code() -> list[str]:
    page = (Path(__file__).parents[2] / "docs" / "distillation.md").read_text()
    return re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)


def test_the_page_s_code_of_texts_runs() -> None:
    model = CausalLM(tiny_network("llama"), num_data=2)
    scope = {
        "distill_text": partial(distill_text, config=TrainingConfig(num_steps=1)),
        "model": model,
        "guide": LowRankGaussianGuide(model),
        "data": Dataset.from_dict({"prompt": TEXTS[:2], "response": TEXTS[:2]}),
        "tokenizer": tiny_tokenizer(TEXTS),
        "InstructionCollator": InstructionCollator,
    }
    exec(page_code()[2], scope)
    assert scope["point"].is_point


def test_the_page_s_code_runs_without_this_library(
    teacher: blob_pyro.Posterior,
    encoder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    teacher.save("posterior")
    Path("messages.txt").write_text("\n".join(TEXTS))
    own, plain, _ = page_code()
    exec(own.replace("distill(texts)", "distill(texts, num_steps=2)"), scope := {})
    capsys.readouterr()
    assert "blob_pyro" not in plain
    exec(plain.replace("distilbert-base-uncased", encoder), {})
    (found,) = ast.literal_eval(capsys.readouterr().out)
    wanted = dict(zip(("login", "printing"), scope["predictions"].probabilities[0], strict=True))
    assert {row["label"]: row["score"] for row in found} == pytest.approx(wanted, abs=1e-5)
