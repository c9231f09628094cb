import numpy as np
import pytest

from blob_pyro.diagnostics import accuracy, bootstrap_interval, negative_log_likelihood


def task(num_examples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, num_examples, 4)), rng.integers(4, size=num_examples)


def test_an_accuracys_interval_is_that_of_the_binomial() -> None:
    # 300 of 400 right: the standard error is 0.0217, so 1.96 of them are 0.042.
    logits = np.tile([1.0, 0.0], (1, 400, 1))
    low, high = bootstrap_interval(accuracy, logits, [0] * 300 + [1] * 100, num_resamples=4000)
    # The ends of 4000 resamples are uncertain by about 0.0013: within 4 of those.
    assert low == pytest.approx(0.75 - 0.0424, abs=0.0052)
    assert high == pytest.approx(0.75 + 0.0424, abs=0.0052)


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    logits, labels = task(500)
    each = [negative_log_likelihood(logits[:, i : i + 1], labels[i : i + 1]) for i in range(500)]
    error = np.std(each) / np.sqrt(500)
    low, high = bootstrap_interval(negative_log_likelihood, logits, labels, num_resamples=4000)
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.06)
    assert (low + high) / 2 == pytest.approx(np.mean(each), abs=0.3 * error)


def test_the_level_and_the_seed_count() -> None:
    logits, labels = task(50)
    half = bootstrap_interval(accuracy, logits, labels, confidence_level=0.5)
    most = bootstrap_interval(accuracy, logits, labels, confidence_level=0.99)
    assert most[0] < half[0] < half[1] < most[1]
    assert half == bootstrap_interval(accuracy, logits, labels, confidence_level=0.5)
    other = bootstrap_interval(negative_log_likelihood, logits, labels, seed=1)
    assert other != bootstrap_interval(negative_log_likelihood, logits, labels)


def test_one_example_has_no_interval() -> None:
    with pytest.raises(ValueError, match="a bootstrap needs at least two examples; there is 1"):
        bootstrap_interval(accuracy, *task(1))
