"""Thresholds of confidence against exact risks: how often is a bound wrong?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from blob_pyro.diagnostics import AnswerThresholds, answer_thresholds, max_probability


def logits_of(confidence: Any) -> np.ndarray:
    """One draw in two classes, the second of which has these probabilities."""
    confidence = np.asarray(confidence)
    return np.log(np.stack([1 - confidence, confidence], axis=-1))[None]


def simulated(
    rng: np.random.Generator, count: int, error_at: Any, surest: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Confidences that are uniform from a half on, and labels that are wrong at given rates."""
    confidence = rng.uniform(0.5, surest, count)
    return logits_of(confidence), 1 - (rng.random(count) < error_at(confidence)).astype(int)


def test_counts_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(0)
    logits = logits_of(rng.permutation(np.linspace(0.51, 0.99, 137)))
    labels = rng.integers(2, size=137)
    found = answer_thresholds(logits, labels)
    confidence = max_probability(logits)
    for j, threshold in enumerate(found.thresholds):
        rows = [row for row in range(137) if confidence[row] >= threshold]
        assert found.answered[j] == len(rows) == 137 * (j + 1) // 20
        assert found.errors[j] == sum(labels[row] == 0 for row in rows)
    assert found.thresholds[-1] == 0


def test_bounds_are_clopper_and_pearsons() -> None:
    found = AnswerThresholds(
        confidence_level=0.9,
        num_examples=60,
        thresholds=[0.9, 0.8, 0.7, 0.6, 0.0],
        answered=[0, 10, 30, 40, 60],
        errors=[0, 0, 3, 40, 25],
    )
    for bound, errors, answered in [*zip(found.bounds, found.errors, found.answered, strict=True)][
        1:
    ]:
        test = binomtest(errors, answered, alternative="less")
        wanted = test.proportion_ci(confidence_level=1 - 0.1 / 5, method="exact").high
        assert bound == pytest.approx(wanted, rel=1e-6)
    assert found.bounds[0] == 1


@pytest.mark.parametrize("error", [0.051, 0.06])
def test_a_bound_is_wrong_no_more_often_than_said(error: float) -> None:
    # The hardest case: the confidence says nothing, and every threshold errs more than wanted.
    rng = np.random.default_rng(1)
    level, num_trials, wrong, naive = 0.9, 1500, 0, 0
    for _ in range(num_trials):
        logits, labels = simulated(rng, 400, lambda c: np.full_like(c, error))
        found = answer_thresholds(logits, labels, confidence_level=level)
        wrong += bool((found.bounds < 0.05).any())
        observed = np.array(found.errors) / found.answered
        naive += bool((observed <= 0.05).any())
    standard_error = (0.1 * 0.9 / num_trials) ** 0.5
    assert wrong / num_trials <= 0.1 + 3 * standard_error
    # Without a bound the same simulation would see it.
    assert naive / num_trials > 0.6


def test_all_bounds_hold_at_once_where_the_confidence_tells_something() -> None:
    rng = np.random.default_rng(2)
    level, num_trials, wrong, shares = 0.9, 1000, 0, []
    for _ in range(num_trials):
        # From t on, the mean of these errors is 0.4 (1 - t)^2.
        logits, labels = simulated(rng, 500, lambda c: 1.2 * (1 - c) ** 2)
        found = answer_thresholds(logits, labels, confidence_level=level)
        risk = 0.4 * (1 - np.maximum(found.thresholds, 0.5)) ** 2
        wrong += bool((risk > found.bounds).any())
        shares.append(max(np.where(found.bounds <= 0.05, found.answered, 0)) / 500)
    assert wrong / num_trials <= 0.1 + 3 * (0.1 * 0.9 / num_trials) ** 0.5
    # An error of 0.05 is reached where 0.71 are answered; the bound costs some of that.
    assert 0.25 < np.mean(shares) < 0.71


def test_examples_of_one_confidence_are_left_out_together() -> None:
    confidence = np.array([0.99] * 50 + [0.8] * 100 + [0.6] * 50)
    # A text in another batch: the last digits differ.
    logits = logits_of(confidence + np.random.default_rng(0).normal(scale=1e-7, size=200))
    found = answer_thresholds(logits, np.ones(200, dtype=int))
    assert set(found.answered) == {0, 50, 150, 200}
    other = max_probability(logits_of(confidence))
    for threshold, answered in zip(found.thresholds, found.answered, strict=True):
        assert (other >= threshold).sum() == answered
    sure = answer_thresholds([[[0.0, 100.0]] * 200], [1] * 200)
    assert sure.answered == [0] * 19 + [200]


def test_too_few_examples_say_how_many_it_takes() -> None:
    def of(count: int) -> AnswerThresholds:
        return answer_thresholds(logits_of(np.linspace(0.6, 0.9, count)), np.ones(count, dtype=int))

    with pytest.raises(ValueError, match=r"0 errors in 116 answers.; 117 answers without"):
        of(116).best(0.05)
    assert of(117).answered[of(117).best(0.05)] == 117


@pytest.mark.parametrize("max_error", [0, 1, -0.1, 5, float("nan")])
def test_an_error_is_a_share(max_error: float) -> None:
    with pytest.raises(ValueError, match="is no share between 0 and 1"):
        answer_thresholds(logits_of([0.6]), [1]).best(max_error)


@pytest.mark.parametrize(
    "change", [{"errors": [3]}, {"answered": [11]}, {"thresholds": [0.9, 0.8]}, {"errors": [-1]}]
)
def test_counts_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    counts: dict[str, Any] = {"thresholds": [0.9], "answered": [2], "errors": [1]}
    with pytest.raises(ValueError, match=r"errors|zip"):
        AnswerThresholds(confidence_level=0.95, num_examples=10, **{**counts, **change})
