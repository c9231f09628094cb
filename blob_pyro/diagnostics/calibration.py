"""Confidence against observed accuracy: in bins, and among the answers that are surest."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from blob_pyro.diagnostics.predictive import FloatArray, IntArray, Values, log_probs_and_labels

Z_95 = 1.959963984540054  # the 97.5 % quantile of the standard normal

# The largest float32 below 1: the bins are closed below, and torchmetrics puts an exact 1 in an
# extra bin above the last.
MAX_CONFIDENCE = 1.0 - 2.0**-24


class ReliabilityCurve(NamedTuple):
    """One row for each bin of confidence; NaN where a bin is empty, but for ``counts``.

    Parameters
    ----------
    confidence
        num_bins, float64: mean probability of the predicted class.
    accuracy
        num_bins, float64: share of right predictions.
    lower, upper
        num_bins, float64: 95 % Wilson interval of the accuracy.
    counts
        num_bins, int64: number of examples.

    Examples
    --------
    >>> reliability_curve([[[0.0, 2.0]] * 4], [1, 1, 1, 0], num_bins=2).accuracy
    array([ nan, 0.75])
    """

    confidence: FloatArray
    accuracy: FloatArray
    lower: FloatArray
    upper: FloatArray
    counts: IntArray


def binnable_probs(logits: Values, labels: Values) -> tuple[FloatArray, IntArray]:
    """Posterior predictive probabilities, just below 1 where they would be 1, and the labels.

    Parameters
    ----------
    logits
        K x N x C, float.
    labels
        N, integer.

    Returns
    -------
    tuple of numpy.ndarray
        N x C, float64, from 0 to ``1 - 2**-24``; and N, int64.

    Examples
    --------
    >>> float(binnable_probs([[[0.0, 1000.0]]], [1])[0].max())
    0.9999999403953552
    """
    log_p, label = log_probs_and_labels(logits, labels)
    return np.asarray(np.minimum(np.exp(log_p), MAX_CONFIDENCE), dtype=np.float64), label


def check_num_bins(num_bins: int) -> None:
    """Refuse a number of bins that is not a positive integer.

    Examples
    --------
    >>> check_num_bins(15)
    """
    if not isinstance(num_bins, int) or num_bins < 1:
        raise ValueError(f"num_bins is {num_bins!r}; wanted a Python int of at least 1")


def wilson_interval(
    successes: npt.NDArray[Any], trials: npt.NDArray[Any]
) -> tuple[FloatArray, FloatArray]:
    """Wilson's 95 % interval of a binomial proportion.

    The ends are the two solutions ``p`` of ``(k/n - p)^2 = z^2 p (1 - p) / n``.

    Parameters
    ----------
    successes
        Any shape: k, from 0 to n.
    trials
        The same shape: n, at least 1.

    Returns
    -------
    tuple of numpy.ndarray
        Lower and upper ends, float64, the same shape, within [0, 1].

    References
    ----------
    Wilson (1927), "Probable inference, the law of succession, and statistical inference".

    Examples
    --------
    >>> import numpy as np
    >>> lower, upper = wilson_interval(np.array([0.0, 5.0]), np.array([10, 10]))
    >>> lower.round(3), upper.round(3)
    (array([0.   , 0.237]), array([0.278, 0.763]))
    """
    proportion = successes / trials
    shrink = 1.0 + Z_95**2 / trials
    center = (proportion + Z_95**2 / (2.0 * trials)) / shrink
    variance = proportion * (1.0 - proportion) / trials + Z_95**2 / (4.0 * trials**2)
    half = Z_95 * np.sqrt(variance) / shrink
    return np.clip(center - half, 0.0, 1.0), np.clip(center + half, 0.0, 1.0)


def reliability_curve(logits: Values, labels: Values, *, num_bins: int = 15) -> ReliabilityCurve:
    """Observed accuracy against mean confidence, in bins of equal width.

    The bins are those of :func:`blob_pyro.diagnostics.expected_calibration_error`, so that
    ``sum(counts / N * |accuracy - confidence|)`` over bins with examples is the ECE.

    Parameters
    ----------
    logits
        K x N x C, float.
    labels
        N, integer.
    num_bins
        Number of bins, ``[j / num_bins, (j + 1) / num_bins)``, the last one closed at 1.

    Returns
    -------
    ReliabilityCurve
        Five arrays of length ``num_bins``.

    Raises
    ------
    ValueError
        If logits, labels or ``num_bins`` are not valid.

    Examples
    --------
    >>> curve = reliability_curve([[[0.0, 2.0], [3.0, 0.0]]], [1, 1], num_bins=2)
    >>> curve.counts
    array([0, 2])
    """
    import torch  # the bin edges must be torchmetrics' own, to the last float32 bit

    check_num_bins(num_bins)
    probs, label = binnable_probs(logits, labels)
    right = probs.argmax(axis=1) == label
    confidence = probs.max(axis=1)
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float32, device="cpu")
    bins = torch.bucketize(torch.from_numpy(confidence).float(), edges, right=True).numpy() - 1

    counts = np.bincount(bins, minlength=num_bins)
    used = counts > 0
    total, hits = (
        np.bincount(bins, each, minlength=num_bins)[used] for each in (confidence, right)
    )
    columns, trials = np.full((4, num_bins), np.nan), counts[used]
    columns[:, used] = total / trials, hits / trials, *wilson_interval(hits, trials)
    mean_confidence, accuracy, lower, upper = columns
    return ReliabilityCurve(mean_confidence, accuracy, lower, upper, counts)


class RiskCoverage(NamedTuple):
    """One row for each threshold of the confidence, the surest answers first.

    Parameters
    ----------
    coverage
        T, float64, from above 0 to 1: share of the examples that are answered.
    risk
        T, float64, from 0 to 1: share of wrong answers among them.
    lower, upper
        T, float64: 95 % Wilson interval of the risk.
    area
        Mean risk over examples, each at its own threshold (AURC); lower is better.

    Examples
    --------
    >>> risk_coverage([[[0.0, 3.0], [0.0, 1.0]]], [1, 0]).risk
    array([0. , 0.5])
    """

    coverage: FloatArray
    risk: FloatArray
    lower: FloatArray
    upper: FloatArray
    area: float


def risk_coverage(logits: Values, labels: Values) -> RiskCoverage:
    """Compute the error rate among the answers above each confidence.

    Examples of one confidence are answered together, so their order does not matter.

    Parameters
    ----------
    logits
        K x N x C, float: K posterior draws, N examples, C classes.
    labels
        N, integer, from 0 to C - 1.

    Returns
    -------
    RiskCoverage
        One row for each of the T different confidences.

    Raises
    ------
    ValueError
        If logits or labels are not valid.

    Examples
    --------
    >>> curve = risk_coverage([[[0.0, 3.0], [0.0, 2.0], [0.0, 1.0]]], [1, 1, 0])
    >>> curve.coverage.round(2), round(curve.area, 3)
    (array([0.33, 0.67, 1.  ]), 0.111)

    References
    ----------
    Geifman, El-Yaniv: "Selective classification for deep neural networks", NeurIPS 2017.
    """
    log_p, label = log_probs_and_labels(logits, labels)
    confidence = log_p.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    errors = np.cumsum((log_p.argmax(axis=1) != label)[order])
    last = np.flatnonzero(np.diff(confidence[order], append=-np.inf))  # of each confidence
    answered = last + 1
    risk = errors[last] / answered
    lower, upper = wilson_interval(errors[last], answered)
    coverage = answered / len(label)
    area = float(np.sum(np.diff(coverage, prepend=0.0) * risk))
    return RiskCoverage(coverage, risk, lower, upper, area)
