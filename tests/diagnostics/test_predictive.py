from math import exp, log

import numpy as np

from blob_pyro.diagnostics import log_probs


def test_equals_the_mean_of_softmaxes_computed_by_hand() -> None:
    logits = np.random.default_rng(0).normal(scale=3.0, size=(4, 5, 3))
    for n in range(5):
        for c in range(3):
            probs = [exp(row[c]) / sum(map(exp, row)) for row in logits[:, n].tolist()]
            np.testing.assert_allclose(log_probs(logits)[n, c], log(sum(probs) / 4), rtol=1e-12)


def test_probabilities_are_averaged_and_not_logits() -> None:
    logits = [[[0.0, 0.0]], [[0.0, log(9.0)]]]  # 1/2 and 9/10; averaged logits give 3/4
    np.testing.assert_allclose(np.exp(log_probs(logits))[0, 1], 0.7, rtol=1e-12)


def test_large_logits_neither_overflow_nor_lose_the_tail() -> None:
    logits = np.array([[[0.0, 2000.0]], [[0.0, 2000.0]]], dtype=np.float32)
    np.testing.assert_array_equal(log_probs(logits), [[-2000.0, 0.0]])


def test_never_above_zero() -> None:
    logits = np.zeros((25, 1, 2))
    logits[..., 1] = 60.0  # without a guard, 25 sure draws round to 9e-16
    assert log_probs(logits).max() == 0.0


def test_masked_classes_have_probability_zero() -> None:
    logits = np.array([[[0.0, -np.inf, 0.0]], [[1.0, -np.inf, 1.0]]])
    np.testing.assert_allclose(np.exp(log_probs(logits)), [[0.5, 0.0, 0.5]], rtol=1e-12)
