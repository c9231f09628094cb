"""A fitted object in several threads, against the answers of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import blob_pyro
from blob_pyro.guides.site_parameters import initial_root
from blob_pyro.infer.data_pass import seeded
from blob_pyro.recipe import Posterior, Recipe
from blob_pyro.recipe.run import posterior_from_fits
from blob_pyro.training.training_state import random_state, restore_random_state, separate_noise

TEXTS = ["toner is out", "locked out", "jam in tray", "my password", "no paper", "who am I"]
LABELS = ["printing", "login"] * 3
SETTINGS: dict[str, Any] = {"num_steps": 3, "rank": 2, "learning_rate": 0.05, "progress": False}


@pytest.fixture
def posterior(base_folder: str) -> Posterior:
    return blob_pyro.fine_tune(TEXTS, base_folder, LABELS, **SETTINGS)


@contextmanager
def beside(work: Callable[[], Any]) -> Iterator[None]:
    """Do something over and over in another thread."""
    done = False

    def loop() -> None:
        while not done:
            work()

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(loop)
        try:
            yield
        finally:
            done = True
            other.result()


def test_calibrations_at_once_find_the_temperature_of_one(posterior: Posterior) -> None:
    expected = posterior.calibrate(TEXTS, LABELS, num_samples=3)
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda _: posterior.calibrate(TEXTS, LABELS, num_samples=3), range(16))
        )
    assert found == [expected] * 16
    assert float(posterior.classifier.temperature) == expected


def test_predictions_of_a_posterior_that_changes_meanwhile_are_refused(
    posterior: Posterior,
) -> None:
    mean: Any = next(posterior.guide.M.parameters())

    def train(*_: Any) -> None:
        mean.data.add_(1.0)

    changed = posterior.model.network.register_forward_hook(train)
    with changed, pytest.raises(RuntimeError, match="calibrated by another thread while it pred"):
        posterior.predict_proba(TEXTS)
    assert posterior.predict_proba(TEXTS).shape == (6, 2)


def test_a_load_beside_changes_no_prediction(posterior: Posterior, tmp_path: Path) -> None:
    posterior.save(tmp_path / "p")
    expected = posterior.predict_proba(TEXTS, num_samples=3)
    with beside(lambda: blob_pyro.load(tmp_path / "p")):
        for _ in range(20):
            assert np.array_equal(posterior.predict_proba(TEXTS, num_samples=3), expected)


def test_fits_at_once_are_the_fits_one_after_the_other(
    posterior: Posterior, base_folder: str
) -> None:
    expected = posterior.predict_proba(TEXTS, num_samples=3)

    def fit(_: int) -> Any:
        fitted = blob_pyro.fine_tune(TEXTS, base_folder, LABELS, **SETTINGS)
        return fitted.predict_proba(TEXTS, num_samples=3)

    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(fit, range(4)):
            assert np.array_equal(found, expected)


def test_texts_are_written_beside_predictions(posterior: Posterior) -> None:
    expected = posterior.generate(TEXTS[:2], num_samples=2, seed=0, max_new_tokens=3).tokens
    with beside(lambda: posterior.predict_proba(TEXTS, num_samples=2)):
        for _ in range(10):
            found = posterior.generate(TEXTS[:2], num_samples=2, seed=0, max_new_tokens=3).tokens
            assert (found == expected).all()


def test_a_prediction_beside_lends_the_features_no_head(base_folder: str) -> None:
    """An ensemble puts a member's head into the network for the time of a draw."""
    ensemble = blob_pyro.fine_tune(TEXTS, base_folder, LABELS, method="ens", **SETTINGS)
    options: dict[str, Any] = {"num_samples": 2, "feature_distance": True, "progress": False}
    expected = ensemble.predictive(TEXTS, **options).feature_distance
    with beside(lambda: ensemble.predictive(TEXTS, num_samples=3, progress=False)):
        for _ in range(10):
            found = ensemble.predictive(TEXTS, **options).feature_distance
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "work",
    [
        lambda: initial_root(torch.zeros(2), 0.1),
        lambda: separate_noise(SimpleNamespace(process_index=1)),
        lambda: restore_random_state(random_state(torch.device("cpu")), torch.device("cpu")),
        lambda: posterior_from_fits(Recipe(), [], None, None, TEXTS),
    ],
    ids=["guide", "process", "resume", "posthoc"],
)
def test_nothing_takes_or_sets_random_numbers_while_another_thread_draws(work: Any) -> None:
    with seeded(5):
        expected = torch.rand(4)
    with ThreadPoolExecutor(1) as pool, seeded(5):
        other = pool.submit(work)
        assert wait([other], timeout=0.2).not_done
        assert torch.equal(torch.rand(4), expected)
    assert other.exception() is None or "makes no posterior" in str(other.exception())


def test_loading_leaves_the_random_state(posterior: Posterior, tmp_path: Path) -> None:
    posterior.save(tmp_path / "p")
    state = torch.get_rng_state()
    blob_pyro.load(tmp_path / "p")
    assert torch.equal(torch.get_rng_state(), state)
