"""The posterior predictive distribution: probabilities averaged over draws, in log space."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax, logsumexp

from blob_pyro.diagnostics.arrays import FloatArray, Values, check_logits


def log_probs(logits: Values) -> FloatArray:
    """Log of the mean probability over draws.

    ``log p(c) = logsumexp_k log softmax(logits_k)_c - log K``: the mean is taken over
    probabilities, never over logits.

    Parameters
    ----------
    logits
        K x N x C, float: K posterior draws, N examples, C classes.

    Returns
    -------
    numpy.ndarray
        N x C, float64, nats, at most 0; ``-inf`` for a class that no draw allows.

    Raises
    ------
    ValueError
        If the logits are not K x N x C, or are NaN.

    Examples
    --------
    Two draws that are sure of opposite classes average to an even bet:

    >>> import numpy as np
    >>> np.exp(log_probs([[[100.0, 0.0]], [[0.0, 100.0]]]))
    array([[0.5, 0.5]])
    """
    draws = log_softmax(check_logits(logits), axis=-1)
    mean = logsumexp(draws, axis=0) - np.log(len(draws))
    # Rounding may leave 1e-16 above 0, and some libraries take a probability above 1 for a logit.
    return np.asarray(np.minimum(mean, 0.0), dtype=np.float64)
