from math import log

import numpy as np
import pytest

from blob_pyro.diagnostics import (
    expected_calibration_error,
    reliability_curve,
    risk_coverage,
)
from blob_pyro.diagnostics.calibration import Z_95, binnable_probs, wilson_interval


def random_task(num_examples: int = 400, num_classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    logits = rng.normal(scale=2.0, size=(3, num_examples, num_classes))
    return logits, rng.integers(num_classes, size=num_examples)


def test_wilson_ends_solve_the_score_equation() -> None:
    k, n = np.array([1.0, 3.0, 50.0, 99.0]), np.array([4, 7, 120, 100])
    for p in wilson_interval(k, n):
        np.testing.assert_allclose((k / n - p) ** 2, Z_95**2 * p * (1 - p) / n, rtol=1e-9)


def test_wilson_interval_of_all_or_nothing_reaches_the_end() -> None:
    lower, upper = wilson_interval(np.array([0.0, 8.0]), np.array([8, 8]))
    np.testing.assert_allclose(lower, [0.0, 8 / (8 + Z_95**2)], atol=1e-15)
    np.testing.assert_allclose(upper, [Z_95**2 / (8 + Z_95**2), 1.0], atol=1e-15)
    assert lower.min() >= 0.0
    assert upper.max() <= 1.0


@pytest.mark.parametrize("num_bins", [1, 2, 15, 40])
def test_curve_adds_up_to_the_calibration_error(num_bins: int) -> None:
    logits, labels = random_task()
    curve = reliability_curve(logits, labels, num_bins=num_bins)
    gap = np.abs(curve.accuracy - curve.confidence)
    total = np.nansum(curve.counts * gap) / 400
    ece = expected_calibration_error(logits, labels, num_bins)
    np.testing.assert_allclose(total, ece, atol=1e-6)  # float32 in torchmetrics


def test_curve_equals_a_loop_over_bins() -> None:
    logits, labels = random_task()
    curve = reliability_curve(logits, labels, num_bins=7)
    probs = binnable_probs(logits, labels)[0]
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    assert curve.counts.sum() == 400
    for j in range(7):
        inside = (confidence >= j / 7) & (confidence < (j + 1) / 7)
        assert curve.counts[j] == inside.sum()
        if inside.any():
            np.testing.assert_allclose(curve.confidence[j], confidence[inside].mean())
            np.testing.assert_allclose(curve.accuracy[j], right[inside].mean())
            low, high = wilson_interval(right[inside].sum(), inside.sum())
            np.testing.assert_allclose((curve.lower[j], curve.upper[j]), (low, high))
        else:
            assert np.isnan([curve.confidence[j], curve.accuracy[j], curve.lower[j]]).all()


def test_edge_belongs_to_the_upper_bin_and_one_to_the_last() -> None:
    logits = np.array([[[0.0, 0.0], [0.0, 1000.0], [0.0, log(3.0)]]])  # 1/2, 1 and 3/4
    curve = reliability_curve(logits, [0, 1, 1], num_bins=4)
    np.testing.assert_array_equal(curve.counts, [0, 0, 1, 2])


def test_risk_against_counting() -> None:
    logits, labels = random_task(60)
    probs = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).mean(0)
    wrong = probs.argmax(1) != labels
    curve = risk_coverage(logits, labels)
    assert len(curve.risk) == 60
    for coverage, risk, threshold in zip(
        curve.coverage, curve.risk, np.sort(probs.max(1))[::-1], strict=True
    ):
        answered = probs.max(1) >= threshold
        np.testing.assert_allclose(coverage, answered.mean())
        np.testing.assert_allclose(risk, wrong[answered].mean())
    np.testing.assert_allclose(curve.area, curve.risk.mean())


def test_order_among_the_equally_sure_does_not_matter() -> None:
    logits = np.array([[[1.0, 0.0]] * 4])
    for labels in ([0, 0, 1, 1], [1, 1, 0, 0]):
        curve = risk_coverage(logits, labels)
        np.testing.assert_allclose([*curve.coverage, *curve.risk, curve.area], [1.0, 0.5, 0.5])
