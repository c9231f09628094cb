"""When a fitted object answers: chosen, kept, and dropped where it no longer holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

import blob_pyro
from blob_pyro.files.saving import write_answers
from blob_pyro.tasks import TextClassificationTask

TEXTS = ["a", "b", "c", "d", "a b", "c d"]
LABELS = ["printing", "login", "printing", "login", "printing", "login"]
# None of them was trained on, and every sixth label is wrong: one of the two classes is.
HELD_OUT = [f"{text} {text} {number}" for number in range(40) for text in TEXTS]
SETTINGS: dict[str, Any] = {"rank": 2, "num_steps": 30, "batch_size": 6, "progress": False}


@pytest.fixture
def posterior(base_folder: str) -> blob_pyro.Posterior:
    return blob_pyro.fine_tune(TEXTS, base_folder, LABELS, learning_rate=0.05, **SETTINGS)


def chosen(posterior: blob_pyro.Posterior, **options: Any) -> Any:
    """Choose on labels that are the posterior's own, but for the least sure twentieth."""
    options = {"max_error": 0.1, "num_samples": 4} | options
    found = posterior.predictive(HELD_OUT, num_samples=options["num_samples"])
    labels = found.classes.copy()
    unsure = found.probabilities.max(axis=1).argsort()[:12]
    labels[unsure] = np.where(labels[unsure] == "login", "printing", "login")
    return posterior.choose_threshold(HELD_OUT, labels, **options)


def test_a_threshold_is_chosen_from_held_out_examples_and_decides(
    posterior: blob_pyro.Posterior,
) -> None:
    assert posterior.answers is None
    with pytest.raises(ValueError, match="no threshold was chosen"):
        posterior.threshold()
    with pytest.raises(ValueError, match="no threshold holds for these predictions"):
        _ = posterior.predictive(TEXTS, num_samples=4).decisions
    answers = chosen(posterior)
    predicted = posterior.predictive(HELD_OUT, num_samples=4)
    confidence = predicted.probabilities.max(axis=1)
    wanted = np.where(confidence >= answers.threshold, "answer", "defer")
    np.testing.assert_array_equal(predicted.decisions, wanted)
    frame = predicted.to_pandas()
    assert list(frame["decision"]) == list(wanted)
    assert answers.bounds[answers.best(0.1)] <= 0.1
    assert f"answers: from a probability of {answers.threshold:.4f} on" in repr(posterior)
    # Another error needs no other examples.
    assert posterior.threshold(0.5, num_samples=4) <= posterior.threshold(num_samples=4)
    with pytest.raises(ValueError, match=r"no threshold keeps the error at 0\.001"):
        posterior.threshold(0.001, num_samples=4)


@pytest.mark.parametrize("other", [{"num_samples": 5}, {"num_samples": 4, "seed": 1}])
def test_a_threshold_holds_for_the_draws_it_was_chosen_with(
    other: dict[str, Any], posterior: blob_pyro.Posterior
) -> None:
    chosen(posterior)
    predicted = posterior.predictive(TEXTS, **other)
    assert predicted.threshold is None
    assert "decision" not in predicted.to_pandas()
    with pytest.raises(ValueError, match="chosen for 4 draws with seed 0, not for"):
        posterior.threshold(**other)
    assert posterior.predictive(TEXTS, num_samples=4).first_draws(2).threshold is None


def test_the_mean_has_no_draws_and_no_seed(posterior: blob_pyro.Posterior) -> None:
    chosen(posterior, num_samples=0)
    assert posterior.predictive(TEXTS, num_samples=0, seed=7).threshold is not None
    assert posterior.predictive(TEXTS, num_samples=1).threshold is None


@pytest.mark.filterwarnings("ignore:the temperature .* is not the best")
def test_another_temperature_drops_the_threshold(
    posterior: blob_pyro.Posterior, tmp_path: Path
) -> None:
    answers = chosen(posterior)
    before = posterior.predictive(HELD_OUT[:9], num_samples=4)
    with pytest.warns(UserWarning, match="chosen at another temperature and is dropped; call"):
        posterior.calibrate(HELD_OUT[:9], LABELS + LABELS[:3], num_samples=4)
    assert posterior.answers is None
    assert posterior.predictive(TEXTS, num_samples=4).threshold is None
    posterior.save(tmp_path / "p")
    assert blob_pyro.load(tmp_path / "p").answers is None
    with pytest.raises(ValueError, match="not made by this posterior as it is now"):
        posterior.choose_threshold(replace(before, labels=np.zeros(9, dtype=np.int64)))
    posterior.classifier.set_temperature(answers.temperature)
    assert posterior.answers == answers


def test_another_fit_has_no_threshold(posterior: blob_pyro.Posterior, tmp_path: Path) -> None:
    answers = chosen(posterior)
    before = posterior.predictive(HELD_OUT[:9], num_samples=4)
    # As if it were trained on, and as another process may do in the folder meanwhile.
    with torch.no_grad():
        next(posterior.guide.parameters()).add_(0.1)
    assert posterior.answers is None
    assert posterior.predictive(TEXTS, num_samples=4).threshold is None
    with pytest.raises(ValueError, match="not made by this posterior as it is now"):
        posterior.choose_threshold(replace(before, labels=np.zeros(9, dtype=np.int64)))
    posterior.save(tmp_path / "p")
    write_answers(tmp_path / "p", answers)
    assert blob_pyro.load(tmp_path / "p").answers is None


def test_a_threshold_is_kept_with_its_evidence(
    posterior: blob_pyro.Posterior, tmp_path: Path
) -> None:
    folder = tmp_path / "p"
    posterior.save(folder)
    assert "answers" not in json.loads((folder / "posterior_config.json").read_text())
    assert blob_pyro.load(folder).answers is None
    answers = chosen(posterior)
    posterior.save(folder)
    assert blob_pyro.load(folder).answers == answers
    other = chosen(posterior, max_error=0.2)
    weights = (folder / "posterior.safetensors").read_bytes()
    write_answers(folder, other)
    assert (folder / "posterior.safetensors").read_bytes() == weights
    loaded = blob_pyro.load(folder)
    assert loaded.answers == other != answers
    np.testing.assert_array_equal(
        loaded.predictive(HELD_OUT, num_samples=4).decisions,
        posterior.predictive(HELD_OUT, num_samples=4).decisions,
    )
    card = (folder / "README.md").read_text()
    assert f"| answers | from a probability of {other.threshold:.4f} on" in card
    config = json.loads((folder / "posterior_config.json").read_text())
    config["answers"]["errors"][-1] = 240
    (folder / "posterior_config.json").write_text(json.dumps(config))
    blob_pyro.load(folder)
    config["answers"]["errors"][-1] = 241
    (folder / "posterior_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"posterior_config.json cannot be used .*answers"):
        blob_pyro.load(folder)


def test_examples_of_training_are_left_out(posterior: blob_pyro.Posterior) -> None:
    labels = posterior.predict(HELD_OUT)
    options: Any = {"max_error": 0.3, "num_samples": 4}
    without = posterior.choose_threshold(HELD_OUT, labels, **options)
    with pytest.warns(UserWarning, match="6 of 246 held-out examples are in the training data too"):
        found = posterior.choose_threshold([*TEXTS, *HELD_OUT], [*LABELS, *labels], **options)
    assert found.num_examples == 240
    assert found.answered == without.answered
    with pytest.raises(ValueError, match="6 of 6 held-out examples are in the training data; give"):
        posterior.choose_threshold(TEXTS, LABELS, **options)


def test_pairs_that_share_one_text_are_other_examples(posterior: blob_pyro.Posterior) -> None:
    train = Dataset.from_dict({"text": HELD_OUT, "text_pair": HELD_OUT})
    task = posterior.task
    assert isinstance(task, TextClassificationTask)
    prompt = task.prompt.replace("{text}", "{text} {text_pair}")
    posterior.task = replace(task, splits={"train": train}, prompt=prompt)
    labels = posterior.predict(train, num_samples=4)
    held_out = train.add_column("label", list(labels))
    found = posterior.choose_threshold(held_out, max_error=0.3, num_samples=4)
    assert found.num_examples == len(HELD_OUT)


def test_too_few_examples_leave_what_was_chosen_before(posterior: blob_pyro.Posterior) -> None:
    answers = chosen(posterior)
    with pytest.raises(ValueError, match=r"\d+ answers without an error would be"):
        posterior.choose_threshold(HELD_OUT[:9], LABELS + LABELS[:3], num_samples=4)
    assert posterior.answers == answers
