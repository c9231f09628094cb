"""MAPIE takes the fitted object as it is, and its sets hold the right class as often as asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import blob_pyro

pytest.importorskip("mapie", reason="MAPIE is not installed")
from mapie.classification import SplitConformalClassifier

WORDS = ["a", "b", "c", "d"]
TEXTS = np.array(
    [f"{one} {two} {three} {one}" for one in WORDS for two in WORDS for three in WORDS]
)
CLASSES = np.array(["login", "phone", "printing"])


@pytest.fixture
def posterior(base_folder: str) -> blob_pyro.Posterior:
    options: Any = {"rank": 2, "num_steps": 20, "batch_size": 6, "progress": False}
    return blob_pyro.fine_tune(
        [*"abcdab"], base_folder, [*CLASSES, *CLASSES], learning_rate=0.05, **options
    )


def test_sets_of_mapie_hold_the_right_class_over_re_splits(
    posterior: blob_pyro.Posterior, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    probabilities = posterior.predict_proba(TEXTS)
    # Labels drawn flatter than the posterior believes: it is overconfident.
    flat = probabilities**0.5 / (probabilities**0.5).sum(axis=1, keepdims=True)
    texts = np.repeat(TEXTS, 4)
    labels = np.array([rng.choice(CLASSES, p=row) for row in np.repeat(flat, 4, axis=0)])
    known = dict(zip(TEXTS, probabilities, strict=True))
    # The same numbers at once: the network answers each text once.
    monkeypatch.setattr(posterior, "predict_proba", lambda rows: np.array([known[x] for x in rows]))
    level, coverages = 0.9, []
    for _ in range(60):
        order = rng.permutation(len(texts))
        held_out, new = order[:128], order[128:]
        sets = SplitConformalClassifier(estimator=posterior, confidence_level=level, prefit=True)
        sets.conformalize(texts[held_out], labels[held_out])
        predicted, within = sets.predict_set(texts[new])
        np.testing.assert_array_equal(
            predicted, posterior.classes_[np.array([known[x] for x in texts[new]]).argmax(axis=1)]
        )
        coverages.append(
            within[np.arange(len(new)), np.searchsorted(CLASSES, labels[new]), 0].mean()
        )
    # A random split of one pool is exchangeable, so the mean is at least the level. Four copies of
    # a text tie, which adds as much as 4 in 128.
    error = np.std(coverages) / len(coverages) ** 0.5
    assert level - 3 * error <= np.mean(coverages) <= level + 1 / 129 + 4 / 128 + 3 * error
    assert within.mean() < 1


def test_mapie_takes_arrays_and_series_of_texts(posterior: blob_pyro.Posterior) -> None:
    import pandas

    labels = posterior.predict(TEXTS)
    found = []
    for texts in (TEXTS, pandas.Series(TEXTS), TEXTS.astype(object)):
        sets = SplitConformalClassifier(estimator=posterior, confidence_level=0.9, prefit=True)
        found.append(sets.conformalize(texts, labels).predict_set(texts)[1])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
