from math import exp, log

import numpy as np
import pytest

from blob_pyro.diagnostics import (
    accuracy,
    bootstrap_interval,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    summarize,
)


def random_task(
    num_draws: int = 5, num_examples: int = 300, num_classes: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    logits = rng.normal(scale=2.0, size=(num_draws, num_examples, num_classes))
    return logits, rng.integers(num_classes, size=num_examples)


def mean_probs(logits: np.ndarray) -> list[list[float]]:
    """Averaged softmax by plain Python loops."""
    num_draws, num_examples, num_classes = logits.shape
    rows = []
    for n in range(num_examples):
        row = [0.0] * num_classes
        for k in range(num_draws):
            weights = [exp(x) for x in logits[k, n].tolist()]
            for c in range(num_classes):
                row[c] += weights[c] / sum(weights) / num_draws
        rows.append(row)
    return rows


def brute_force_ece(logits: np.ndarray, labels: np.ndarray, num_bins: int) -> float:
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(num_bins)]
    for row, label in zip(mean_probs(logits), labels, strict=True):
        confidence = max(row)
        j = min(int(confidence * num_bins), num_bins - 1)
        bins[j].append((confidence, row.index(confidence) == label))
    gaps = [abs(sum(right - conf for conf, right in inside)) for inside in bins]
    return sum(gaps) / len(labels)


@pytest.mark.parametrize("num_bins", [1, 3, 15, 50])
def test_calibration_error_equals_brute_force(num_bins: int) -> None:
    logits, labels = random_task()
    ece = expected_calibration_error(logits, labels, num_bins)
    # No sampling error: 1e-6 is torchmetrics' float32.
    assert ece == pytest.approx(brute_force_ece(logits, labels, num_bins), abs=1e-6)


def test_certain_predictions_share_the_last_bin() -> None:
    # One bin holds 1.0 (wrong) and 0.97 (right): |1/2 - 0.985|. Two bins would give 0.515.
    logits = [[[0.0, 5000.0], [0.0, log(0.97 / 0.03)]]]
    assert expected_calibration_error(logits, [0, 1]) == pytest.approx(0.485, abs=1e-6)


def test_rounding_above_one_is_not_taken_for_logits() -> None:
    logits = np.zeros((25, 4, 2))
    logits[..., 1] = 60.0  # without a guard, 25 sure draws round to a probability of 1 + 9e-16
    assert expected_calibration_error(logits, [1, 1, 1, 1]) == pytest.approx(0.0, abs=1e-6)
    assert expected_calibration_error(logits, [0, 0, 0, 0]) == pytest.approx(1.0, abs=1e-6)


def test_uniform_prediction_is_calibrated_at_chance() -> None:
    assert expected_calibration_error(np.zeros((2, 4, 4)), [0, 1, 2, 3]) == pytest.approx(0.0)


def test_other_metrics_equal_brute_force() -> None:
    logits, labels = random_task()
    probs = mean_probs(logits)
    right = [row.index(max(row)) == y for row, y in zip(probs, labels, strict=True)]
    nll = [-log(row[y]) for row, y in zip(probs, labels, strict=True)]
    brier = [
        sum((p - (c == y)) ** 2 for c, p in enumerate(row))
        for row, y in zip(probs, labels, strict=True)
    ]
    assert accuracy(logits, labels) == pytest.approx(sum(right) / 300, rel=1e-12)
    assert negative_log_likelihood(logits, labels) == pytest.approx(sum(nll) / 300, rel=1e-12)
    assert brier_score(logits, labels) == pytest.approx(sum(brier) / 300, rel=1e-12)


def test_accuracy_is_of_averaged_probabilities() -> None:
    # Averaged logits favour class 1 (3 against 0); averaged probabilities favour class 0.
    logits = [[[2.0, 0.0]], [[2.0, 0.0]], [[-9.0, 0.0]]]
    assert accuracy(logits, [0]) == 1.0


def test_brier_score_of_a_sure_mistake_is_two() -> None:
    assert brier_score([[[0.0, 900.0]]], [0]) == 2.0
    assert brier_score([[[0.0, 900.0]]], [1]) == 0.0


def test_impossible_label_has_infinite_loss() -> None:
    assert negative_log_likelihood([[[0.0, 0.0, -np.inf]]], [2]) == np.inf


def test_summary_holds_each_metric() -> None:
    logits, labels = random_task()
    assert summarize(logits, labels) == {
        "accuracy": accuracy(logits, labels),
        "ece": expected_calibration_error(logits, labels),
        "nll": negative_log_likelihood(logits, labels),
        "brier": brier_score(logits, labels),
    }


def test_metrics_are_means_over_examples_whatever_their_order() -> None:
    logits, labels = random_task()
    order = np.random.default_rng(0).permutation(300)
    shuffled = summarize(logits[:, order], labels[order])
    assert shuffled == pytest.approx(summarize(logits, labels), abs=1e-6)


def test_tensors_give_what_arrays_give() -> None:
    torch = pytest.importorskip("torch")
    logits, labels = random_task()
    tensors = torch.tensor(logits, requires_grad=True), torch.tensor(labels)
    assert summarize(*tensors) == summarize(logits, labels)


@pytest.mark.parametrize(
    "metric",
    [accuracy, expected_calibration_error, negative_log_likelihood, brier_score, summarize],
)
def test_each_metric_checks_its_labels(metric: object) -> None:
    with pytest.raises(ValueError, match=r"labels\[0\] is 4 .*; wanted 0 to 3"):
        metric(np.zeros((1, 1, 4)), [4])  # type: ignore[operator]


def test_an_accuracys_interval_is_that_of_the_binomial() -> None:
    # 300 of 400 right: the standard error is 0.0217, so 1.96 of them are 0.042.
    logits = np.tile([1.0, 0.0], (1, 400, 1))
    low, high = bootstrap_interval(accuracy, logits, [0] * 300 + [1] * 100, num_resamples=4000)
    # The ends of 4000 resamples are uncertain by about 0.0013: within 4 of those.
    assert low == pytest.approx(0.75 - 0.0424, abs=0.0052)
    assert high == pytest.approx(0.75 + 0.0424, abs=0.0052)


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    logits, labels = random_task(3, 500)
    each = [negative_log_likelihood(logits[:, i : i + 1], labels[i : i + 1]) for i in range(500)]
    error = np.std(each) / np.sqrt(500)
    low, high = bootstrap_interval(negative_log_likelihood, logits, labels, num_resamples=4000)
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.06)
    assert (low + high) / 2 == pytest.approx(np.mean(each), abs=0.3 * error)


def test_the_level_and_the_seed_count() -> None:
    logits, labels = random_task(3, 50)
    half = bootstrap_interval(accuracy, logits, labels, confidence_level=0.5)
    most = bootstrap_interval(accuracy, logits, labels, confidence_level=0.99)
    assert most[0] < half[0] < half[1] < most[1]
    assert half == bootstrap_interval(accuracy, logits, labels, confidence_level=0.5)
    other = bootstrap_interval(negative_log_likelihood, logits, labels, seed=1)
    assert other != bootstrap_interval(negative_log_likelihood, logits, labels)
