"""What comes in: NumPy arrays or tensors, made into checked NumPy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

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
    if str(tensor.dtype) == "torch.bfloat16":
        tensor = tensor.float()
    return np.asarray(tensor.numpy())


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
    if array.ndim != 3:
        raise ValueError(
            f"logits have shape {array.shape}; wanted three dimensions, K draws x N examples x "
            "C classes. Add the dimension of draws to a point estimate with `logits[None]`."
        )
    num_draws, num_examples, num_classes = array.shape
    if num_draws == 0 or num_examples == 0:
        raise ValueError(
            f"logits have shape {array.shape}; wanted at least one draw and one example. "
            "Check that the data loader is not empty."
        )
    if num_classes < 2:
        raise ValueError(
            f"logits have shape {array.shape}, that is {num_classes} classes; wanted at least 2. "
            "Give a single logit x of a binary model as the two classes (0, x)."
        )
    # The largest logit of a row is finite unless the row has a NaN, a +inf or nothing but -inf.
    bad = np.argwhere(~np.isfinite(array.max(axis=-1)))
    if len(bad):
        draw, example = (int(index) for index in bad[0])
        raise ValueError(
            f"logits of draw {draw}, example {example} are {array[draw, example].tolist()} "
            f"({len(bad)} such rows); wanted no NaN, no +inf, and a finite value for some class. "
            "Look for overflow in half precision, or for an example without options."
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
    if array.shape != (num_examples,):
        raise ValueError(
            f"labels have shape {array.shape}; wanted ({num_examples},), one for each example of "
            "the logits. Pass logits and labels of the same examples in the same order."
        )
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"labels have dtype {array.dtype}; wanted integers. Pass class indices, not "
            "probabilities or one-hot vectors."
        )
    bad = np.flatnonzero((array < 0) | (array >= num_classes))
    if len(bad):
        raise ValueError(
            f"labels[{bad[0]}] is {array[bad[0]]} ({len(bad)} such labels); wanted 0 to "
            f"{num_classes - 1}, since the logits have {num_classes} classes. Drop the examples "
            "without a label (such as -100) from logits and labels."
        )
    return array.astype(np.int64)
