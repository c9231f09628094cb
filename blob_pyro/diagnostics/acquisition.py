"""Which unlabelled example to label next, one score an example: higher is asked first."""

from __future__ import annotations

from blob_pyro.diagnostics.arrays import FloatArray, Values
from blob_pyro.diagnostics.uncertainty import max_probability, mutual_information

# The same quantity under the name that active learning gives it.
bald = mutual_information


def variation_ratio(logits: Values) -> FloatArray:
    """Give the probability that the predicted class is wrong, by the model's own account.

    ``1 - max_c 1/K sum_k p_k(c)``

    Parameters
    ----------
    logits
        K x N x C, float: K posterior draws, N examples, C classes.

    Returns
    -------
    numpy.ndarray
        N, float64, from 0 to 1 - 1 / C.

    Raises
    ------
    ValueError
        If the logits are not valid.

    Examples
    --------
    >>> variation_ratio([[[100.0, 0.0]], [[0.0, 100.0]]]).round(4)
    array([0.5])

    References
    ----------
    Gal, Islam, Ghahramani: "Deep Bayesian active learning with image data", ICML 2017, section 4.
    """
    return 1.0 - max_probability(logits)
