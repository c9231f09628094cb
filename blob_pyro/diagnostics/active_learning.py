"""Which unlabelled example to label next, one score an example: higher is asked first."""

from typing import NamedTuple

import numpy as np
from scipy.special import entr, softmax

from blob_pyro.diagnostics.predictive import FloatArray, IntArray, Values, check_logits
from blob_pyro.diagnostics.uncertainty import expected_entropy, max_probability, mutual_information

# Joint labellings of a batch, C^b: each candidate's entropy is a sum over all of them.
MOST_LABELLINGS = 1_000_000


class LabelBatch(NamedTuple):
    """Examples to label together, in the order in which they were chosen.

    Parameters
    ----------
    indices
        b, int64: which of the N examples.
    information
        b, float64, nats: mutual information between the weights and the labels of the examples
        up to and with this one. It never falls.

    Examples
    --------
    >>> batch_bald([[[9.0, 0.0]], [[0.0, 9.0]]], 1).indices
    array([0])
    """

    indices: IntArray
    information: FloatArray


def batch_bald(logits: Values, batch_size: int) -> LabelBatch:
    """Choose a batch greedily by the joint mutual information of its labels and the weights.

    ``I[y_1, ..., y_b; A] = H[y_1, ..., y_b] - sum_i 1/K sum_k H[p_k(y_i)]``, where the joint
    entropy is exact: of ``1/K sum_k prod_i p_k(y_i)`` over all ``C^b`` labellings. Two examples
    about which the draws disagree in the same way are not both chosen, as
    :func:`~blob_pyro.diagnostics.bald` would. The draws must be functions (one ``A_k`` for all
    examples).

    Parameters
    ----------
    logits
        K x N x C, float: K posterior draws, N unlabelled examples, C classes.
    batch_size
        Number b of examples to choose, from 1 to N, with ``C^b`` at most a million.

    Returns
    -------
    LabelBatch
        The examples and the information. The greedy choice has at least ``1 - 1/e`` of the
        information of the best batch.

    Raises
    ------
    ValueError
        If the logits or the batch size are not valid, or there are too many labellings.

    Examples
    --------
    Examples 0 and 1 are the same question; 2 is asked with 0, though 1 scores higher:

    >>> import numpy as np
    >>> draws = np.array([[4.0, 4.0, 2.0], [-4.0, -4.0, 2.0], [4.0, 4.0, -2.0], [-4.0, -4.0, -2.0]])
    >>> batch_bald(np.stack([draws, -draws], axis=-1), 2).indices
    array([0, 2])

    References
    ----------
    Kirsch, van Amersfoort, Gal: "BatchBALD", NeurIPS 2019, arXiv 1906.08158, equations 8 to 12.
    """
    probs = softmax(check_logits(logits), axis=-1)
    num_draws, num_examples, num_classes = probs.shape
    _check_batch_size(batch_size, num_examples, num_classes)
    conditional = expected_entropy(logits)
    joint = np.ones((num_draws, 1))  # of the labels chosen so far, under each draw
    spent = 0.0
    indices: list[int] = []
    information: list[float] = []
    for _ in range(batch_size):
        if indices:
            last = probs[:, indices[-1], None, :]
            joint = (joint[:, :, None] * last).reshape(num_draws, -1)
        # One example at a time, since C^b numbers each are many.
        mixed = (joint.T @ probs[:, example] / num_draws for example in range(num_examples))
        gain = np.array([entr(each).sum() for each in mixed]) - conditional - spent
        gain[indices] = -np.inf
        best = int(np.argmax(gain))
        indices.append(best)
        information.append(float(gain[best]))
        spent += float(conditional[best])
    # Rounding aside, information is not negative and never falls.
    return LabelBatch(np.array(indices), np.maximum.accumulate(np.maximum(information, 0.0)))


def _check_batch_size(batch_size: int, num_examples: int, num_classes: int) -> None:
    if not isinstance(batch_size, int) or not 1 <= batch_size <= num_examples:
        raise ValueError(f"batch_size is {batch_size!r}; wanted an int from 1 to {num_examples}")
    if num_classes**batch_size > MOST_LABELLINGS:
        raise ValueError(
            f"batch_size {batch_size} is more than {MOST_LABELLINGS} joint labellings; choose fewer"
        )


# The same quantity under the name that active learning gives it.
bald = mutual_information


def variation_ratio(logits: Values) -> FloatArray:
    """Give the model's own probability that the predicted class is wrong.

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
