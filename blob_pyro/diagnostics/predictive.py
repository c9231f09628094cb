"""The posterior predictive: logits and labels, checked, and probabilities averaged over draws."""

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, logsumexp

if TYPE_CHECKING:
    import torch

Values: TypeAlias = "npt.ArrayLike | torch.Tensor"
FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]


def as_numpy(values: Values) -> npt.NDArray[Any]:
    """Convert an array, a sequence or a tensor on any device to a NumPy array.

    Tensors are recognised by their ``detach`` method, so that this module needs no torch.

    Parameters
    ----------
    values
        Anything that :func:`numpy.asarray` takes, or a torch tensor of any shape, dtype and
        device, with or without gradient.

    Returns
    -------
    numpy.ndarray
        The same shape. The dtype is kept, but for ``bfloat16``, which NumPy lacks and which
        becomes ``float32``.

    Examples
    --------
    >>> import torch
    >>> as_numpy(torch.ones(2, dtype=torch.bfloat16, requires_grad=True))
    array([1., 1.], dtype=float32)
    """
    detach = getattr(values, "detach", None)
    if detach is None:
        return np.asarray(values)
    tensor = detach().cpu()
    return np.asarray((tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy())


def check_logits(logits: Values) -> FloatArray:
    """Check the logits of K draws and give them in float64.

    Parameters
    ----------
    logits
        K x N x C, float: K draws, N examples, C classes. K = 1 for a posterior mean or a point
        estimate. ``-inf`` marks a class that an example does not offer.

    Returns
    -------
    numpy.ndarray
        K x N x C, float64.

    Raises
    ------
    ValueError
        If there are not three dimensions, a dimension is empty, there are fewer than two
        classes, or a value is NaN, ``+inf``, or ``-inf`` for all classes of one example.

    Examples
    --------
    >>> check_logits([[[0.0, 1.0]]]).shape
    (1, 1, 2)
    """
    array = as_numpy(logits).astype(np.float64)
    if array.ndim != 3 or 0 in array.shape or array.shape[2] < 2:
        raise ValueError(
            f"logits have shape {array.shape}; wanted K draws x N examples x C classes, at least "
            "1 x 1 x 2. Give a point estimate as `logits[None]`, a single logit x as (0, x)."
        )
    # The largest logit of a row is finite unless the row has a NaN, a +inf or nothing but -inf.
    bad = np.argwhere(~np.isfinite(array.max(axis=-1)))
    if len(bad):
        draw, example = bad[0]
        raise ValueError(
            f"logits of draw {draw}, example {example} are {array[draw, example].tolist()} "
            f"({len(bad)} such rows); wanted no NaN, no +inf, and a finite value for some class"
        )
    return array


def check_labels(labels: Values, *, num_examples: int, num_classes: int) -> IntArray:
    """Check the labels that belong to some logits and give them in int64.

    Parameters
    ----------
    labels
        N, integer, each from 0 to ``num_classes - 1``.
    num_examples
        N of the logits.
    num_classes
        C of the logits.

    Returns
    -------
    numpy.ndarray
        N, int64.

    Raises
    ------
    ValueError
        If the shape is not N, the dtype is not an integer, or a label is out of range.

    Examples
    --------
    >>> check_labels([0, 1, 1], num_examples=3, num_classes=2)
    array([0, 1, 1])
    """
    array = as_numpy(labels)
    if array.shape != (num_examples,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"labels have shape {array.shape} and dtype {array.dtype}; wanted ({num_examples},) "
            "integers: class indices of the examples of the logits, in the same order."
        )
    bad = np.flatnonzero((array < 0) | (array >= num_classes))
    if len(bad):
        raise ValueError(
            f"labels[{bad[0]}] is {array[bad[0]]} ({len(bad)} such labels); wanted 0 to "
            f"{num_classes - 1}. Drop examples without a label (-100) from logits and labels."
        )
    return array.astype(np.int64)


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


def log_probs_and_labels(logits: Values, labels: Values) -> tuple[FloatArray, IntArray]:
    """Give :func:`log_probs` and the labels that belong to them, checked.

    Examples
    --------
    >>> log_probs_and_labels([[[0.0, 0.0]]], [1])[1]
    array([1])
    """
    log_p = log_probs(logits)
    num_examples, num_classes = log_p.shape
    return log_p, check_labels(labels, num_examples=num_examples, num_classes=num_classes)
