"""How unsure a prediction is, and how much of that more data could remove."""

import numpy as np
from scipy.special import digamma, entr, log_softmax, softmax
from scipy.stats import rankdata

from blob_pyro.diagnostics.metrics import percentile_interval
from blob_pyro.diagnostics.predictive import FloatArray, Values, as_numpy, check_logits, log_probs


def predictive_entropy(logits: Values) -> FloatArray:
    """Entropy of the averaged predictive distribution: the total uncertainty.

    ``H[1/K sum_k p_k]``

    Parameters
    ----------
    logits
        K x N x C, float: K posterior draws, N examples, C classes.

    Returns
    -------
    numpy.ndarray
        N, float64, nats, from 0 to log C.

    Raises
    ------
    ValueError
        If the logits are not valid.

    Examples
    --------
    >>> predictive_entropy([[[100.0, 0.0]], [[0.0, 100.0]]]).round(4)  # log 2
    array([0.6931])
    """
    return np.asarray(entr(np.exp(log_probs(logits))).sum(axis=-1))


def expected_entropy(logits: Values) -> FloatArray:
    """Mean entropy of the draws: the aleatoric uncertainty, which more data do not remove.

    ``1/K sum_k H[p_k]``

    Parameters
    ----------
    logits
        K x N x C, float.

    Returns
    -------
    numpy.ndarray
        N, float64, nats, from 0 to log C.

    Raises
    ------
    ValueError
        If the logits are not valid.

    Examples
    --------
    >>> expected_entropy([[[100.0, 0.0]], [[0.0, 100.0]]]).round(4)
    array([0.])
    """
    # By way of logarithms as there, so that one draw tells exactly nothing of the weights.
    draws = entr(np.exp(log_softmax(check_logits(logits), axis=-1))).sum(axis=-1)
    return np.asarray(draws.mean(axis=0))


def mutual_information(logits: Values) -> FloatArray:
    """Information that a label would give about the weights: the epistemic uncertainty.

    ``I[y; A] = H[1/K sum_k p_k] - 1/K sum_k H[p_k]``, the score of BALD. The draws must be
    functions (one ``A_k`` for all examples), as
    ``blob_pyro.infer.posterior_predictive`` gives them.

    Parameters
    ----------
    logits
        K x N x C, float.

    Returns
    -------
    numpy.ndarray
        N, float64, nats, from 0 to log min(K, C): 0 for K = 1.

    Raises
    ------
    ValueError
        If the logits are not valid.

    References
    ----------
    Houlsby, Huszar, Ghahramani, Lengyel (2011), "Bayesian active learning for classification
    and preference learning".

    Examples
    --------
    >>> mutual_information([[[100.0, 0.0]], [[0.0, 100.0]]]).round(4)  # log 2
    array([0.6931])
    """
    difference = predictive_entropy(logits) - expected_entropy(logits)
    # Jensen's inequality keeps it at 0 or above, but for rounding.
    return np.asarray(np.maximum(difference, 0.0), dtype=np.float64)


def dirichlet_mutual_information(log_concentrations: Values) -> FloatArray:
    r"""Information that a label would give about the probabilities of a Dirichlet.

    For concentrations :math:`\alpha` that sum to :math:`\alpha_0`, mean :math:`m = \alpha /
    \alpha_0`, it is the entropy of m less the expected entropy,
    :math:`\psi(\alpha_0 + 1) - \sum_c m_c \psi(\alpha_c + 1)`.

    Parameters
    ----------
    log_concentrations
        N x C, float: logarithms of the concentrations; ``-inf`` for a class that an example lacks.

    Returns
    -------
    numpy.ndarray
        N, float64, nats, from 0 to log C.

    Raises
    ------
    ValueError
        If the logarithms are not valid as logits.

    References
    ----------
    Malinin and Gales, "Predictive Uncertainty Estimation via Prior Networks", NeurIPS 2018.

    Examples
    --------
    A uniform distribution over the probability of heads:

    >>> dirichlet_mutual_information([[0.0, 0.0]]).round(4)  # log 2 - 1/2
    array([0.1931])
    """
    logs = check_logits(as_numpy(log_concentrations)[None])[0]
    mean, alphas = softmax(logs, axis=-1), np.exp(logs)
    expected = digamma(alphas.sum(axis=-1) + 1) - (mean * digamma(alphas + 1)).sum(axis=-1)
    return np.asarray(np.maximum(entr(mean).sum(axis=-1) - expected, 0.0), dtype=np.float64)


def max_probability(logits: Values) -> FloatArray:
    """Probability of the most probable class: the confidence.

    It falls as uncertainty rises, so pass its negative to :func:`auroc`.

    Parameters
    ----------
    logits
        K x N x C, float.

    Returns
    -------
    numpy.ndarray
        N, float64, from 1 / C to 1.

    Raises
    ------
    ValueError
        If the logits are not valid.

    Examples
    --------
    >>> max_probability([[[0.0, 0.0]]])
    array([0.5])
    """
    return np.asarray(np.exp(log_probs(logits).max(axis=1)), dtype=np.float64)


def auroc(in_scores: Values, out_scores: Values) -> float:
    """Area under the ROC curve of telling out-of-distribution examples by their score.

    It is the probability that an out-of-distribution example has the larger score, ties
    counting half: the statistic of Mann and Whitney over the number of pairs.

    Parameters
    ----------
    in_scores
        N, float: a score of uncertainty, such as :func:`predictive_entropy`, of
        in-distribution examples.
    out_scores
        N', float: the same score of out-of-distribution examples.

    Returns
    -------
    float
        From 0 to 1: 0.5 tells nothing, 1 tells all, below 0.5 the scores point the wrong way.

    Raises
    ------
    ValueError
        If a score is not one-dimensional, is empty, or holds NaN.

    Examples
    --------
    >>> auroc([0.1, 0.2, 0.3], [0.3, 0.9])
    0.9166666666666666
    """
    outside = _check_scores("out_scores", out_scores)
    inside = _check_scores("in_scores", in_scores)
    num_out, num_in = len(outside), len(inside)
    ranks = rankdata(np.concatenate([outside, inside]))[:num_out]
    return float((ranks.sum() / num_out - (num_out + 1) / 2) / num_in)


def auroc_interval(in_scores: Values, out_scores: Values, *, seed: int = 0) -> tuple[float, float]:
    """Give the 95 % percentile interval of :func:`auroc`, both sets of examples resampled.

    Parameters
    ----------
    in_scores, out_scores
        As there, two or more each.
    seed
        Seed of the 500 resamples.

    Returns
    -------
    low, high
        Ends of the interval.

    Examples
    --------
    >>> low, high = auroc_interval([0.1, 0.2, 0.3, 0.5], [0.3, 0.9, 0.8])
    >>> low < auroc([0.1, 0.2, 0.3, 0.5], [0.3, 0.9, 0.8]) <= high
    True
    """
    scores = _check_scores("in_scores", in_scores), _check_scores("out_scores", out_scores)
    return percentile_interval(auroc, scores, seed=seed)


def _check_scores(name: str, scores: Values) -> FloatArray:
    array = as_numpy(scores).astype(np.float64)
    if array.ndim != 1 or array.size == 0 or np.isnan(array).any():
        raise ValueError(
            f"{name} has shape {array.shape}, {np.isnan(array).sum()} NaN; give a number an example"
        )
    return array
