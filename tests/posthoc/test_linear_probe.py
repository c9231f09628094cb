from __future__ import annotations

import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from blob_pyro.models import SequenceClassifier
from blob_pyro.networks import pooled_features
from blob_pyro.networks.loading import quiet_peft
from blob_pyro.posthoc import linear_probe
from blob_pyro.poutine import in_turn
from blob_pyro.testing import tiny_batch, tiny_network


def probed(name: str, labels: Any) -> tuple[Any, Any, float]:
    model = SequenceClassifier(tiny_network(name, "SEQ_CLS"), num_data=len(labels)).eval()
    batch = {**tiny_batch(rows=len(labels)), "labels": torch.as_tensor(labels)}
    halves = [{k: v[i : i + 15] for k, v in batch.items()} for i in (0, 15)]
    return model, batch, linear_probe(model, halves)


@pytest.mark.parametrize("num_present", [2, 3])
def test_the_network_predicts_what_scikit_learn_does(num_present: int) -> None:
    labels = np.arange(30) % num_present
    model, batch, strength = probed("bert", labels)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    features = pooled_features(model.network, inputs).numpy()
    scaled = (features - features.mean(axis=0)) / np.sqrt(features.var(axis=0).mean())
    oracle = LogisticRegression(C=strength, max_iter=5000).fit(scaled, labels)
    expected = oracle.predict_proba(scaled)
    found = model.network(**inputs).logits[:, :num_present].softmax(-1).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_feature_that_hardly_varies_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(30) % 3
    # Its own deviation, 1e-9, would make a text that has 1e-3 there a surely different one.
    features = np.random.default_rng(0).normal(size=(30, 16)) + np.eye(3, 16)[labels]
    features[:, 15] = 1e-9 * np.arange(30)
    module = sys.modules["blob_pyro.posthoc.linear_probe"]
    monkeypatch.setattr(module, "_features_and_labels", lambda *_: (features, labels))
    model, _, _ = probed("bert", labels)
    head = model.network.get_base_model().classifier.modules_to_save["default"]
    assert head.weight[:, 15].abs().max() < 1e-3 * head.weight.abs().max()


def test_a_layer_without_bias_has_no_intercept() -> None:
    labels = np.arange(30) % 3
    model, batch, strength = probed("llama", labels)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    features = pooled_features(model.network, inputs).numpy()
    scaled = features / np.sqrt(features.var(axis=0).mean())
    oracle = LogisticRegression(C=strength, max_iter=5000, fit_intercept=False).fit(scaled, labels)
    found = model.network(**inputs).logits.softmax(-1).detach().numpy()
    np.testing.assert_allclose(found, oracle.predict_proba(scaled), atol=1e-4)


def test_a_class_without_examples_stays_possible_and_needs_a_bias() -> None:
    labels = np.arange(30) % 2
    model, batch, _ = probed("bert", labels)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    last = model.network(**inputs).logits.softmax(-1)[:, 2]
    assert ((last > 1e-3) & (last < 0.2)).all()
    with pytest.raises(ValueError, match=r"no example has the classes \[2\].*has no bias"):
        probed("llama", labels)


def test_a_network_loaded_beside_does_not_leave_the_warnings_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    split, entered, finished = StratifiedKFold.split, Event(), Event()

    def load() -> None:
        with in_turn(), quiet_peft():
            entered.set()
            finished.wait(5)

    def split_beside(*args: Any) -> Any:
        loading.append(pool.submit(load))
        entered.wait(0.2)
        return split(*args)

    loading: list[Any] = []
    monkeypatch.setattr(StratifiedKFold, "split", split_beside)
    before = [*warnings.filters]
    with ThreadPoolExecutor(1) as pool:
        probed("bert", np.arange(30) % 3)
        finished.set()
        loading[0].result()
    assert [*warnings.filters] == before


def test_scikit_learn_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match="pip install scikit-learn"):
        probed("bert", np.arange(30) % 3)
