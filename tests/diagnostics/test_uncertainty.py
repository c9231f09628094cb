from itertools import product
from math import exp, log

import numpy as np
import pytest
from scipy.special import rel_entr
from scipy.stats import dirichlet

from blob_pyro.diagnostics import (
    auroc,
    dirichlet_mutual_information,
    expected_entropy,
    max_probability,
    mutual_information,
    predictive_entropy,
)


def random_logits(num_draws: int = 4, num_examples: int = 6) -> np.ndarray:
    return np.random.default_rng(1).normal(scale=2.0, size=(num_draws, num_examples, 3))


def brute_force_auroc(in_scores: list[float], out_scores: list[float]) -> float:
    wins = [(b > a) + (a == b) / 2 for a, b in product(in_scores, out_scores)]
    return sum(wins) / len(wins)


def test_decomposition_equals_loops() -> None:
    logits = random_logits()
    for n in range(6):
        draws = []
        for row in logits[:, n].tolist():
            total = sum(map(exp, row))
            draws.append([exp(x) / total for x in row])
        mean = [sum(p) / 4 for p in zip(*draws, strict=True)]
        aleatoric = sum(-p * log(p) for row in draws for p in row) / 4
        # Mutual information by its other definition, the mean KL from each draw to the mean.
        epistemic = sum(p * log(p / m) for row in draws for p, m in zip(row, mean, strict=True))
        assert predictive_entropy(logits)[n] == pytest.approx(sum(-p * log(p) for p in mean))
        assert expected_entropy(logits)[n] == pytest.approx(aleatoric)
        assert mutual_information(logits)[n] == pytest.approx(epistemic / 4)
        assert max_probability(logits)[n] == pytest.approx(max(mean))


def test_disagreeing_draws_are_all_epistemic() -> None:
    logits = 1e3 * np.eye(3)[:, None, :]  # draw k is sure of class k
    np.testing.assert_allclose(predictive_entropy(logits), log(3), rtol=1e-12)
    np.testing.assert_allclose(mutual_information(logits), log(3), rtol=1e-12)
    np.testing.assert_array_equal(expected_entropy(logits), 0.0)


def test_uniform_draws_are_all_aleatoric() -> None:
    logits = np.zeros((5, 2, 8))
    np.testing.assert_allclose(expected_entropy(logits), log(8), rtol=1e-12)
    np.testing.assert_allclose(mutual_information(logits), 0.0, atol=1e-12)
    np.testing.assert_allclose(max_probability(logits), 1 / 8, rtol=1e-12)


def test_one_draw_has_no_epistemic_uncertainty() -> None:
    np.testing.assert_array_equal(mutual_information(random_logits(num_draws=1)), 0.0)


def test_equal_draws_never_give_a_negative() -> None:
    # Without a guard, half of these 500 differences of entropies round to below 0.
    logits = np.repeat(random_logits(num_draws=1, num_examples=500), 7, axis=0)
    assert mutual_information(logits).min() >= 0.0


def test_masked_classes_do_not_count() -> None:
    logits = np.array([[[0.0, -np.inf, 0.0]], [[50.0, -np.inf, 0.0]]])
    without = logits[:, :, [0, 2]]
    for measure in (predictive_entropy, expected_entropy, mutual_information, max_probability):
        np.testing.assert_allclose(measure(logits), measure(without), rtol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e6])
def test_auroc_equals_counting_pairs_at_any_scale(scale: float) -> None:
    rng = np.random.default_rng(2)
    in_scores = scale * rng.integers(-20, 10, size=40)  # many ties, many beyond [0, 1]
    out_scores = scale * rng.integers(-10, 20, size=25)
    expected = brute_force_auroc(in_scores.tolist(), out_scores.tolist())
    assert auroc(in_scores, out_scores) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("in_scores", "out_scores", "expected"),
    [([0.0, 1.0], [2.0, 3.0], 1.0), ([2.0], [1.0, 0.0], 0.0), ([5.0, 5.0], [5.0], 0.5)],
)
def test_auroc_of_plain_cases(
    in_scores: list[float], out_scores: list[float], expected: float
) -> None:
    assert auroc(in_scores, out_scores) == expected


@pytest.mark.parametrize(
    ("in_scores", "out_scores", "message"),
    [
        ([[0.0]], [1.0], r"in_scores has shape \(1, 1\), 0 NaN; give a number"),
        ([0.0], [], r"out_scores has shape \(0,\), 0 NaN"),
        ([0.0], [1.0, np.nan], r"out_scores has shape \(2,\), 1 NaN"),
    ],
)
def test_bad_scores_are_refused(in_scores: object, out_scores: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auroc(in_scores, out_scores)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "alphas", [[0.3, 0.05, 2.0], [4.0, 1.0, 1.0], [300.0, 2.0, 9.0], [0.4, 7.0]]
)
def test_a_dirichlet_s_information_is_that_of_its_draws(alphas: list[float]) -> None:
    draws = dirichlet(alphas).rvs(200_000, random_state=0)
    draws /= draws.sum(axis=1, keepdims=True)
    # The mean KL of a draw to the mean, which is known.
    terms = (rel_entr(draws, dirichlet(alphas).mean())).sum(axis=1)
    z = (dirichlet_mutual_information([np.log(alphas)])[0] - terms.mean()) / (
        terms.std() / len(terms) ** 0.5
    )
    # One of 16,000 such tests fails by chance.
    assert abs(z) < 4


def test_a_dirichlet_s_information_at_its_ends() -> None:
    sure, unknown = [[40.0, 40.0]], [[-300.0, -300.0]]
    assert dirichlet_mutual_information(sure) == pytest.approx(0, abs=1e-12)
    assert dirichlet_mutual_information(unknown) == pytest.approx(log(2))
    lacking = dirichlet_mutual_information([[0.5, -np.inf, 1.0]])
    assert lacking == pytest.approx(dirichlet_mutual_information([[0.5, 1.0]]))
