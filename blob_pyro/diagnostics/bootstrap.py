"""How far a metric would move with other examples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import bootstrap

from blob_pyro.diagnostics.arrays import Values, check_labels, check_logits
from blob_pyro.diagnostics.predictive_distribution import log_probs

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
    array = check_logits(logits)
    _, num_examples, num_classes = array.shape
    label = check_labels(labels, num_examples=num_examples, num_classes=num_classes)
    if num_examples < 2:
        raise ValueError("a bootstrap needs at least two examples; there is 1")
    # The draws are averaged once; a resample then costs one draw only.
    averaged = log_probs(array)[None]

    def of(index: np.ndarray) -> float:
        return metric(averaged[:, index], label[index])

    result = bootstrap(
        (np.arange(num_examples),),
        of,
        vectorized=False,
        method="percentile",
        confidence_level=confidence_level,
        n_resamples=num_resamples,
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
