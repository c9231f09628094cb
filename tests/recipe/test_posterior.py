"""The fitted object against the program that it holds, and what scikit-learn makes of it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss
from sklearn.metrics._scorer import get_scorer
from sklearn.utils.validation import check_is_fitted
from tokenizers.processors import TemplateProcessing

import blob_pyro
from blob_pyro.diagnostics import FeatureDistance, auroc
from blob_pyro.files.config import sha256_of
from blob_pyro.infer import posterior_predictive
from blob_pyro.networks import load_causal_lm
from blob_pyro.tasks import TASKS, TextClassificationTask, helpdesk_out_of_scope

TEXTS = ["a", "b", "c", "d", "a b", "c d"]
LABELS = ["printing", "login", "printing", "login", "printing", "login"]
SETTINGS: dict[str, Any] = {"rank": 2, "num_steps": 4, "batch_size": 2, "progress": False}


@pytest.fixture
def posterior(base_folder: str) -> blob_pyro.Posterior:
    return blob_pyro.fine_tune(TEXTS, base_folder, LABELS, learning_rate=0.05, **SETTINGS)


def test_nothing_of_other_libraries_is_on_the_screen(
    base_folder: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = Dataset.from_dict({"text": TEXTS, "label": LABELS}).shuffle(seed=0)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        posterior = blob_pyro.fine_tune(rows, base_folder, **SETTINGS)
        posterior.save(tmp_path / "posterior")
        posterior = blob_pyro.load(tmp_path / "posterior")
        posterior.evaluate(rows, progress=False)
        posterior.predictive(rows, progress=False)
        posterior.distill(rows, num_steps=1, progress=False)
    assert [str(warning.message) for warning in warned] == []
    assert capfd.readouterr().err == ""


def test_probabilities_are_averages_of_the_programs_own_logits(
    posterior: blob_pyro.Posterior,
) -> None:
    batch = posterior.collator([{"text": text} for text in TEXTS])
    logits = posterior_predictive(
        posterior.classifier, posterior.guide, [batch], 5, seed=3, progress=False
    )["logits"]
    expected = logits.softmax(-1).mean(0)
    given = posterior.predict_proba(TEXTS, num_samples=5, seed=3)
    torch.testing.assert_close(torch.tensor(given).float(), expected, atol=1e-5, rtol=1e-4)
    best = posterior.classes_[expected.argmax(-1).numpy()]
    assert list(posterior.predict(np.array(TEXTS), num_samples=5, seed=3)) == list(best)


@pytest.mark.filterwarnings("ignore:the temperature .* is not the best")
def test_a_new_process_gets_back_tokenizer_classes_and_numbers(
    posterior: blob_pyro.Posterior, tmp_path: Path
) -> None:
    posterior.calibrate(TEXTS, LABELS, num_samples=3)
    before = posterior.predict_proba(TEXTS, num_samples=3)
    posterior.save(tmp_path / "desk")
    loaded = blob_pyro.load(tmp_path / "desk")
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS, num_samples=3), before)
    assert list(loaded.classes_) == ["login", "printing"]
    assert "method: blob" in repr(loaded)
    # Unmodified PEFT reads the folder as an adapter.
    AutoPeftModelForCausalLM.from_pretrained(tmp_path / "desk")


def test_every_kind_of_data_is_the_same_training_set(base_folder: str, tmp_path: Path) -> None:
    frame = pandas.DataFrame({"body": TEXTS, "queue": LABELS})
    frame.to_csv(tmp_path / "tickets.csv", index=False)
    columns = {"text_column": "body", "label_column": "queue"}
    fits = [
        blob_pyro.fine_tune(data, base_folder, **columns, **SETTINGS)
        for data in (frame, Dataset.from_pandas(frame), tmp_path / "tickets.csv")
    ]
    fits.append(blob_pyro.fine_tune(TEXTS, base_folder, LABELS, **SETTINGS))
    first, *others = (fit.predict_proba(TEXTS, num_samples=2) for fit in fits)
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_whole_numbers_stay_numbers_in_their_own_order(base_folder: str) -> None:
    labels = [10, 9, 10, 9, 10, 9]
    fit = blob_pyro.fine_tune(
        TEXTS, load_causal_lm(base_folder), labels, scoring="letters", **SETTINGS
    )
    assert fit.classes_.tolist() == [9, 10]
    predicted = fit.predict(TEXTS)
    assert predicted.dtype.kind == "i"
    assert fit.evaluate(TEXTS, labels).metrics()["accuracy"] == np.mean(predicted == labels)


def test_class_labels_of_another_order_are_matched_by_name(
    posterior: blob_pyro.Posterior,
) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["printing", "login"])})
    numbers = [["printing", "login"].index(name) for name in LABELS]
    data = Dataset.from_dict({"text": TEXTS, "label": numbers}, features=features)
    by_name = posterior.evaluate(TEXTS, LABELS)
    np.testing.assert_array_equal(posterior.evaluate(data).labels, by_name.labels)
    with pytest.raises(ValueError, match="not one of the classes"):
        posterior.evaluate(TEXTS, ["scanning"] * 5 + ["login"])


@pytest.mark.parametrize("kind", [Dataset, pandas.DataFrame])
def test_evaluating_reads_ids_and_pairs_as_predicting_does(
    base_folder: str, tmp_path: Path, kind: Any
) -> None:
    columns = {"id": [*"zyxwvu"], "text": TEXTS, "text_pair": TEXTS[::-1], "label": LABELS}
    data = Dataset.from_dict(columns) if kind is Dataset else pandas.DataFrame(columns)
    blob_pyro.fine_tune(data, base_folder, **SETTINGS).save(tmp_path / "pairs")
    fit = blob_pyro.load(tmp_path / "pairs")
    measured, predicted = fit.evaluate(data), fit.predictive(data)
    np.testing.assert_array_equal(measured.logits, predicted.logits)
    assert [*measured.ids] == [*predicted.ids] == columns["id"]
    with pytest.raises(ValueError, match="classifies pairs of texts"):
        fit.predict(TEXTS)
    with pytest.raises(ValueError, match="classifies pairs of texts"):
        fit.evaluate(TEXTS, LABELS)
    other = columns | {"text_pair": TEXTS}
    changed = Dataset.from_dict(other) if kind is Dataset else pandas.DataFrame(other)
    assert (fit.evaluate(changed).logits != measured.logits).any()
    single = (
        data.drop(columns="text_pair")
        if kind is pandas.DataFrame
        else data.remove_columns("text_pair")
    )
    fit = blob_pyro.fine_tune(single, base_folder, **SETTINGS)
    with pytest.raises(ValueError, match="classifies single texts"):
        fit.evaluate(data)


def test_scikit_learn_takes_it_as_a_fitted_classifier(posterior: blob_pyro.Posterior) -> None:
    check_is_fitted(posterior)
    probabilities = posterior.predict_proba(TEXTS)
    expected = -log_loss(LABELS, probabilities, labels=["login", "printing"])
    assert get_scorer("neg_log_loss")(posterior, TEXTS, LABELS) == pytest.approx(expected, rel=1e-5)
    nll = posterior.evaluate(TEXTS, LABELS).metrics()["nll"]
    assert nll == pytest.approx(-expected, rel=1e-5)
    share, confidence = calibration_curve(
        LABELS, probabilities[:, 1], pos_label="printing", n_bins=2
    )
    assert len(share) == len(confidence)


def test_a_frame_says_class_and_uncertainties(posterior: blob_pyro.Posterior) -> None:
    predictions = posterior.predictive(TEXTS, num_samples=6)
    frame = predictions.to_pandas()
    assert list(frame["text"]) == TEXTS
    assert (frame["epistemic_uncertainty"] <= frame["total_uncertainty"] + 1e-6).all()
    log_probs = torch.tensor(predictions.logits).log_softmax(-1).double()
    mean = log_probs.exp().mean(0)
    total = -(mean * mean.log()).sum(-1)
    expected = -(log_probs.exp() * log_probs).sum(-1).mean(0)
    np.testing.assert_allclose(frame["total_uncertainty"], total, atol=1e-5)
    np.testing.assert_allclose(frame["epistemic_uncertainty"], total - expected, atol=1e-5)


def test_an_arviz_object_holds_the_examples(posterior: blob_pyro.Posterior) -> None:
    data = posterior.to_arviz(TEXTS, LABELS, num_samples=4)
    assert data.posterior_predictive["probs"].shape == (1, 4, 6, 2)


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        (["a", None], ["x", "y"]),
        (["a", "b"], ["x", None]),
        (["a", "b"], ["x", float("nan")]),
        (["a", "b"], [True, False]),
        (["a", "b", "c"], ["x", "y"]),
        (["a", "b"], ["x", "x"]),
        ("a", ["x"]),
    ],
)
def test_what_is_no_labelled_text_is_refused_before_training(
    texts: Any, labels: Any, base_folder: str
) -> None:
    with pytest.raises(ValueError, match=r"row \d|texts and|two different|labels"):
        blob_pyro.fine_tune(texts, base_folder, labels, **SETTINGS)


@pytest.mark.parametrize(
    ("names", "labels", "kept"),
    [
        # Numbered by another order; other classes; no class is right.
        (("printing", "login"), [0, 1], [1, 0]),
        (("login", "canteen"), [0, 1], [-1, -1]),
        (("printing", "login"), [-1, -1], [-1, -1]),
    ],
)
def test_labels_of_another_task_are_kept_only_if_they_mean_the_same(
    names: tuple[str, str], labels: list[int], kept: list[int], posterior: blob_pyro.Posterior
) -> None:
    data = Dataset.from_dict({"id": ["x", "y"], "text": ["a", "d"], "label": labels})
    task = TextClassificationTask("other", {"test": data}, names)
    found = posterior.predictive(task, num_samples=2)
    assert found.labels.tolist() == kept
    assert found.ids.tolist() == ["x", "y"]
    np.testing.assert_array_equal(
        found.probabilities, posterior.predict_proba(["a", "d"], num_samples=2)
    )


def test_what_cannot_be_measured_is_refused(posterior: blob_pyro.Posterior) -> None:
    with pytest.raises(ValueError, match=r"out_of_scope has no labels, so nothing can be measured"):
        posterior.evaluate(helpdesk_out_of_scope())
    for measure in (posterior.evaluate, posterior.predictive):
        with pytest.raises(ValueError, match="boolq is of another kind than what this posterior"):
            measure(TASKS["boolq"])


def test_strangers_are_told_by_the_last_hidden_states_of_the_mean(
    posterior: blob_pyro.Posterior, tmp_path: Path
) -> None:
    strangers = ["a d", "c"]
    posterior.save(tmp_path / "desk")
    plain = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "desk").eval()

    def features(texts: list[str]) -> np.ndarray:
        states = []
        for text in texts:
            batch = posterior.collator([{"text": text}])
            with torch.no_grad():
                states.append(plain(**batch, output_hidden_states=True).hidden_states[-1][0, -1])
        return torch.stack(states).numpy()

    distance = FeatureDistance.of(features(TEXTS), [label == "printing" for label in LABELS])
    assert distance is not None
    found = posterior.evaluate(TEXTS, LABELS, ood=strangers, num_samples=2, progress=False)
    assert found.ood is not None
    np.testing.assert_allclose(found.feature_distance, distance(features(TEXTS)), rtol=1e-3)
    np.testing.assert_allclose(found.ood.feature_distance, distance(features(strangers)), rtol=1e-3)
    assert found.ood_auroc()["feature_distance"] == auroc(
        found.feature_distance, found.ood.feature_distance
    )
    assert {"feature_distance", "label"} <= {*found.to_pandas().columns}
    loaded = blob_pyro.load(tmp_path / "desk")
    (tmp_path / "strangers.csv").write_text("text\na d\nc\n")
    again = loaded.evaluate(
        TEXTS, LABELS, ood=tmp_path / "strangers.csv", num_samples=2, progress=False
    )
    assert again.ood_auroc() == found.ood_auroc()
    np.testing.assert_array_equal(again.ood.feature_distance, found.ood.feature_distance)


def test_a_posterior_without_statistics_says_that_a_score_is_absent(
    posterior: blob_pyro.Posterior, tmp_path: Path
) -> None:
    posterior.save(tmp_path / "desk")
    posterior.feature_distance = None
    posterior.save(tmp_path / "desk")
    loaded = blob_pyro.load(tmp_path / "desk")
    assert not (tmp_path / "desk" / "features.safetensors").exists()
    with pytest.warns(UserWarning, match="holds no statistics of its training texts"):
        found = loaded.evaluate(TEXTS, LABELS, ood=["c"], num_samples=2, progress=False)
    assert set(found.ood_auroc()) == {"entropy", "mutual_information", "max_probability"}


def test_statistics_that_are_not_those_that_were_saved_are_refused(
    posterior: blob_pyro.Posterior, tmp_path: Path
) -> None:
    posterior.save(tmp_path / "desk")
    path = tmp_path / "desk" / "features.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "variances": tensors["variances"] + 1}, path)
    with pytest.raises(ValueError, match=r"features.safetensors is not the file that was saved"):
        blob_pyro.load(tmp_path / "desk")
    # With a right checksum, as from somebody else.
    save_file({**tensors, "variances": torch.zeros(5)}, path)
    config = tmp_path / "desk" / "posterior_config.json"
    content = json.loads(config.read_text())
    content["sha256"][path.name] = sha256_of(path)
    config.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"features.safetensors cannot be used .* do not fit"):
        blob_pyro.load(tmp_path / "desk")
    path.unlink()
    with pytest.raises(ValueError, match=r"features.safetensors is missing"):
        blob_pyro.load(tmp_path / "desk")


def test_a_text_is_written_before_what_ends_one(posterior: blob_pyro.Posterior) -> None:
    options: dict[str, Any] = {"num_samples": 2, "seed": 0, "max_new_tokens": 4}
    expected = posterior.generate(["a b", "c"], **options).tokens
    end, tokenizer = posterior.tokenizer.pad_token, posterior.tokenizer
    cast(Any, tokenizer).backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end}", special_tokens=[(str(end), int(tokenizer.pad_token_id))]
    )
    assert tokenizer("a b")["input_ids"][-1] == tokenizer.pad_token_id
    assert torch.equal(posterior.generate(["a b", "c"], **options).tokens, expected)


def test_what_has_no_order_or_two_sets_of_labels_is_refused(
    posterior: blob_pyro.Posterior,
) -> None:
    for texts in ({"text": TEXTS}, set(TEXTS), (text for text in TEXTS)):
        with pytest.raises(ValueError, match="give a list, array or series"):
            posterior.predict_proba(texts)
        with pytest.raises(ValueError, match="give a list, array or series"):
            posterior.generate(cast(Any, texts))
    frame = pandas.DataFrame({"text": TEXTS, "label": LABELS})
    with pytest.raises(ValueError, match="labels were given beside a DataFrame"):
        posterior.evaluate(frame, LABELS[::-1])


def test_an_adapter_that_left_the_network_predicts_nothing(
    posterior: blob_pyro.Posterior,
) -> None:
    posterior.model.network.unload()
    with pytest.raises(ValueError, match="no longer in the network"):
        posterior.predict_proba(TEXTS)


def test_a_network_that_has_a_posterior_gets_no_second_one(
    posterior: blob_pyro.Posterior, tmp_path: Path
) -> None:
    """It would replace the matrices that the first posterior computes with."""
    posterior.save(tmp_path / "desk")
    expected = posterior.predict_proba(TEXTS)
    network = posterior.model.network.get_base_model()
    with pytest.raises(ValueError, match="has LoRA layers already"):
        blob_pyro.fine_tune(TEXTS, network, LABELS, tokenizer=posterior.tokenizer, progress=False)
    with pytest.raises(ValueError, match="has LoRA layers already"):
        blob_pyro.load(tmp_path / "desk", network, posterior.tokenizer)
    assert (posterior.predict_proba(TEXTS) == expected).all()


def test_every_file_of_a_folder_has_the_mode_of_the_umask(
    posterior: blob_pyro.Posterior, tmp_path: Path
) -> None:
    posterior.save(tmp_path / "desk")
    (tmp_path / "other").touch()
    wanted = (tmp_path / "other").stat().st_mode
    assert {path.stat().st_mode for path in (tmp_path / "desk").iterdir()} == {wanted}
