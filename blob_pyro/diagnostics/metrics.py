"""Accuracy, calibration and proper scores of the posterior predictive, over examples."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap

from blob_pyro.diagnostics.calibration import binnable_probs
from blob_pyro.diagnostics.predictive import Values, log_probs_and_labels

Metric = Callable[[Values, Values], float]


def bootstrap_interval(
    metric: Metric,
    logits: Values,
    labels: Values,
    *,
    confidence_level: float = 0.95,
    num_resamples: int = 500,
    seed: int = 0,
) -> tuple[float, float]:
    """Give the percentile interval of a metric over resampled examples.

    Examples are drawn with replacement; draws of the posterior stay as they are, so the interval
    holds the uncertainty of the test set and not that of training.

    Parameters
    ----------
    metric
        A function of logits and labels, such as :func:`~blob_pyro.diagnostics.accuracy`.
    logits
        K x N x C, float.
    labels
        N, integer, from 0 to C - 1.
    confidence_level
        Probability content of the interval, between 0 and 1.
    num_resamples
        Number of resampled sets of examples.
    seed
        Seed of the resampling.

    Returns
    -------
    low, high
        Ends of the interval, in the metric's unit.

    Raises
    ------
    ValueError
        If logits or labels are not valid, or there are fewer than two examples.

    Examples
    --------
    >>> from blob_pyro.diagnostics import accuracy
    >>> logits = [[[1.0, 0.0]] * 100]
    >>> low, high = bootstrap_interval(accuracy, logits, [0] * 80 + [1] * 20)
    >>> 0.68 < low < 0.76 and 0.84 < high < 0.92
    True

    References
    ----------
    Efron, Tibshirani: "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    # The draws are averaged once; a resample then costs one draw only.
    averaged, label = log_probs_and_labels(logits, labels)
    return percentile_interval(
        lambda index: metric(averaged[None, index], label[index]),
        (np.arange(len(label)),),
        confidence_level=confidence_level,
        num_resamples=num_resamples,
        seed=seed,
    )


def percentile_interval(
    statistic: Callable[..., float],
    samples: Sequence[npt.NDArray[Any]],
    *,
    confidence_level: float = 0.95,
    num_resamples: int = 500,
    seed: int = 0,
) -> tuple[float, float]:
    """Give the bootstrap's percentile interval of a statistic of one or more samples."""
    result = bootstrap(
        samples,
        statistic,
        vectorized=False,
        method="percentile",
        confidence_level=confidence_level,
        n_resamples=num_resamples,
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return float(low), float(high)


def accuracy(logits: Values, labels: Values) -> float:
    """Share of examples whose most probable class is the label.

    The class is that of the averaged probabilities; the first class wins a tie.

    Parameters
    ----------
    logits
        K x N x C, float: K posterior draws, N examples, C classes.
    labels
        N, integer, from 0 to C - 1.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    ValueError
        If logits or labels are not valid.

    Examples
    --------
    >>> accuracy([[[2.0, 0.0], [1.0, 0.0]]], [0, 1])
    0.5
    """
    log_p, label = log_probs_and_labels(logits, labels)
    return float(np.mean(log_p.argmax(axis=1) == label))


def expected_calibration_error(logits: Values, labels: Values, num_bins: int = 15) -> float:
    """Compute the calibration error of the predicted class (ECE: L1, equal-width bins).

    ``ECE = sum_j |bin_j| / N * |accuracy(bin_j) - mean confidence(bin_j)|``, computed by
    :func:`torchmetrics.functional.classification.multiclass_calibration_error`.

    Parameters
    ----------
    logits
        K x N x C, float.
    labels
        N, integer, from 0 to C - 1.
    num_bins
        Number of bins of the confidence. They are closed below and open above,
        ``[j / num_bins, (j + 1) / num_bins)``; the last one holds a confidence of 1 too, where
        torchmetrics by itself would add a bin. Some papers' code has them open below instead.

    Returns
    -------
    float
        From 0 to 1, in float32 precision (about 1e-6). It is biased upwards for few examples.

    Raises
    ------
    ValueError
        If logits, labels or ``num_bins`` are not valid.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger (2017), "On calibration of modern neural networks".

    Examples
    --------
    Four predictions of class 1, all but sure, of which three are right:

    >>> round(expected_calibration_error([[[0.0, 99.0]] * 4], [1, 1, 1, 0]), 4)
    0.25
    """
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    # Clipped below 1, since torchmetrics takes anything above 1 for logits (softmax once more).
    probs, label = map(torch.from_numpy, binnable_probs(logits, labels))
    error = multiclass_calibration_error(probs, label, probs.shape[1], n_bins=num_bins, norm="l1")
    return float(error)


def negative_log_likelihood(logits: Values, labels: Values) -> float:
    """Mean negative log-likelihood of the averaged predictive distribution.

    ``-1/N sum_n log (1/K sum_k p_k(y_n))``

    Parameters
    ----------
    logits
        K x N x C, float.
    labels
        N, integer, from 0 to C - 1.

    Returns
    -------
    float
        Nats per example, at least 0; ``inf`` if a label has probability 0.

    Raises
    ------
    ValueError
        If logits or labels are not valid.

    Examples
    --------
    >>> round(negative_log_likelihood([[[0.0, 0.0]]], [0]), 4)  # log 2
    0.6931
    """
    log_p, label = log_probs_and_labels(logits, labels)
    return float(-np.mean(log_p[np.arange(len(label)), label]))


def brier_score(logits: Values, labels: Values) -> float:
    """Brier score: the squared distance from the one-hot label, summed over classes.

    ``1/N sum_n sum_c (p(c) - [c = y_n])^2``

    Parameters
    ----------
    logits
        K x N x C, float.
    labels
        N, integer, from 0 to C - 1.

    Returns
    -------
    float
        From 0 to 2 (twice the score of the form that looks at one of two classes only).

    Raises
    ------
    ValueError
        If logits or labels are not valid.

    References
    ----------
    Brier (1950), "Verification of forecasts expressed in terms of probability".

    Examples
    --------
    >>> round(brier_score([[[0.0, 0.0]]], [0]), 4)
    0.5
    """
    log_p, label = log_probs_and_labels(logits, labels)
    one_hot = np.eye(log_p.shape[1])[label]
    return float(np.mean(np.sum((np.exp(log_p) - one_hot) ** 2, axis=1)))


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "ece": expected_calibration_error,
    "nll": negative_log_likelihood,
    "brier": brier_score,
}


def summarize(logits: Values, labels: Values) -> dict[str, float]:
    """Compute the four metrics of this module, under the names that tables use.

    Parameters
    ----------
    logits
        K x N x C, float.
    labels
        N, integer, from 0 to C - 1.

    Returns
    -------
    dict
        ``accuracy`` (0 to 1), ``ece`` (0 to 1, 15 bins), ``nll`` (nats per example), ``brier``
        (0 to 2).

    Raises
    ------
    ValueError
        If logits or labels are not valid.

    Examples
    --------
    >>> {name: round(value, 3) for name, value in summarize([[[0.0, 2.0]]], [1]).items()}
    {'accuracy': 1.0, 'ece': 0.119, 'nll': 0.127, 'brier': 0.028}
    """
    return {name: metric(logits, labels) for name, metric in METRICS.items()}
