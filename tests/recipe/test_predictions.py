from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from blob_pyro.diagnostics import auroc, predictive_entropy, summarize
from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import posterior_predictive
from blob_pyro.recipe.predictions import Predictions, evaluate, load_predictions
from blob_pyro.tasks import Collator
from blob_pyro.tasks.collators import with_labels


def made_up(seed: int = 0, scale: float = 2.0) -> Predictions:
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=scale, size=(3, 40, 4)).astype(np.float32)
    logits[:, :5, 3] = -np.inf
    return Predictions(logits, rng.integers(3, size=40), np.array([f"é{i}" for i in range(40)]))


def test_metrics_can_be_recomputed_from_the_file(tmp_path: Path) -> None:
    evaluation = made_up()
    path = tmp_path / "new" / "e.npz"
    evaluation.save(path)
    loaded = load_predictions(path)
    for name in ("logits", "labels", "ids"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(evaluation, name))
    assert loaded.metrics() == summarize(evaluation.logits, evaluation.labels)
    assert [file.name for file in path.parent.iterdir()] == ["e.npz"]


def test_intervals_hold_the_metrics_and_follow_the_seed() -> None:
    evaluation = made_up()
    intervals = evaluation.intervals(seed=1)
    for name, value in evaluation.metrics().items():
        low, high = intervals[name]
        assert low < high
        # The ECE's bootstrap is biased upwards: its interval need not hold the value.
        assert name == "ece" or low < value < high
    assert intervals == evaluation.intervals(seed=1)


def test_the_auroc_is_that_of_the_predictive_entropy() -> None:
    sure, unsure = made_up(scale=6.0), made_up(1, scale=0.5)
    wanted = auroc(predictive_entropy(sure.logits), predictive_entropy(unsure.logits))
    assert sure.ood_auroc(unsure)["entropy"] == wanted > 0.9


def test_strangers_are_told_apart_by_as_many_draws() -> None:
    own, strangers = made_up(), made_up(1, scale=0.5)
    first = replace(own, ood=strangers).first_draws(1)
    inside, outside = (predictive_entropy(each.logits[:1]) for each in (own, strangers))
    assert first.ood_auroc()["entropy"] == auroc(inside, outside)
    with pytest.raises(ValueError, match="with 3 draws and these with 1"):
        first.ood_auroc(strangers)


# Of several lengths, more than a batch of them.
TEXTS = Dataset.from_dict(
    {
        "id": [f"q{number}" for number in range(19)],
        "text": ["x" * (1 + number % 4) for number in range(19)],
        "token": [*range(5, 24)],
        "label": [number % 3 for number in range(19)],
    }
)


class ByToken(Collator):
    """A token for each text, and no tokenizer."""

    def __init__(self) -> None:
        pass

    def __call__(self, examples: Any) -> Any:
        tokens = torch.tensor([[example["token"]] * 3 for example in examples])
        batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        return with_labels(batch, examples)


def test_evaluating_is_predicting(classifier: Any) -> None:
    model = classifier("llama")
    guide = LowRankGaussianGuide(model, init_scale=0.25)
    found = evaluate(model, guide, TEXTS, ByToken(), 4, 7, progress=False)
    loader = ByToken().loader(TEXTS)
    wanted = posterior_predictive(model, guide, loader, 4, 7, progress=False)
    np.testing.assert_array_equal(found.logits, wanted["logits"])
    np.testing.assert_array_equal(found.labels, TEXTS["label"])
    assert found.ids.tolist() == TEXTS["id"][:]


def test_without_labels_nothing_is_measured(classifier: Any) -> None:
    model = classifier("llama")
    texts = TEXTS.select(range(3)).remove_columns("label")
    found = evaluate(model, LowRankGaussianGuide(model), texts, ByToken(), 2, progress=False)
    assert found.labels.tolist() == [-1, -1, -1]
    with pytest.raises(ValueError, match="no labels, so nothing can be measured"):
        found.metrics()


def test_a_save_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e.npz"
    made_up().save(path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.savez_compressed", full)
    with pytest.raises(OSError, match="No space left"):
        made_up(1).save(path)
    np.testing.assert_array_equal(load_predictions(path).logits, made_up().logits)
    assert [file.name for file in tmp_path.iterdir()] == ["e.npz"]


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def pickled(path: Path) -> None:
    arrays: Any = {"logits": np.array([{"a": 1}], dtype=object)}
    np.savez(path, labels=np.zeros(1), ids=np.zeros(1), **arrays)


def another(path: Path) -> None:
    np.savez(path, other=np.zeros(1))


@pytest.mark.parametrize(
    "damage", [truncated, pickled, another, lambda path: path.write_text("x"), Path.unlink]
)
def test_another_file_is_refused(damage: Any, tmp_path: Path) -> None:
    path = tmp_path / "e.npz"
    made_up().save(path)
    damage(path)
    with pytest.raises(
        ValueError, match=r"e.npz cannot be used .*make it again with blob-pyro evaluate"
    ):
        load_predictions(path)


def test_half_precision_networks_are_saved_in_float32(classifier: Any) -> None:
    model = classifier("llama").to(torch.bfloat16)
    guide = LowRankGaussianGuide(model)
    found = evaluate(model, guide, TEXTS, ByToken(), 1, progress=False)
    assert found.logits.dtype == np.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": np.asarray(["a"])}, r"arrays of shapes .2, 3, 4., .3,. and .1,."),
        ({"labels": np.zeros(3)}, r"arrays of kinds .'f', 'f', 'U'. and 3 dimensions"),
        ({"logits": np.zeros((3, 4), np.float32)}, r"and 2 dimensions"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(
    change: Any, message: str, tmp_path: Path
) -> None:
    arrays = {"logits": np.zeros((2, 3, 4), np.float32), "labels": np.zeros(3, np.int64)}
    np.savez(tmp_path / "e.npz", **{**arrays, "ids": np.asarray(["a", "b", "c"]), **change})
    with pytest.raises(ValueError, match=rf"e.npz cannot be used .*{message}"):
        load_predictions(tmp_path / "e.npz")
