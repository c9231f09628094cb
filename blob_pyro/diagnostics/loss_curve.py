"""What was logged of a fit, step by step, and what it says about its length and KL weight."""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from blob_pyro.diagnostics.calibration import wilson_interval
from blob_pyro.diagnostics.metrics import accuracy
from blob_pyro.diagnostics.predictive import FloatArray, Values
from blob_pyro.diagnostics.uncertainty import max_probability

TERMS = ("loss", "nll", "kl", "kl_weight")
# What is smaller is no reason to train again, however certain it is: a gap between confidence and
# accuracy, a fall of the training NLL in nats an example.
_GAP, _FALL = 0.05, 0.1
# Steps by which a fall can be told from noise.
_FEWEST = 20
# Each has step, loss, nll, kl and kl_weight, as ``blob_pyro.training.StepRecord`` does.
Records: TypeAlias = Sequence[Any]


def loss_curve(records: Records) -> dict[str, FloatArray]:
    """Make arrays of the records of one fit.

    Parameters
    ----------
    records
        What ``blob_pyro.training.fit`` returns, or anything with the same attributes.

    Returns
    -------
    dict
        ``step``, ``loss``, ``nll``, ``kl`` and ``kl_weight``, float64, one number a step.

    Raises
    ------
    ValueError
        If there is no record.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> record = SimpleNamespace(step=0, loss=3.0, nll=2.0, kl=10.0, kl_weight=0.1)
    >>> loss_curve([record])["kl"]
    array([10.])
    """
    if not records:
        raise ValueError("there are no records of steps; wanted those of blob_pyro.training.fit")
    return {
        name: np.array([getattr(record, name) for record in records], dtype=np.float64)
        for name in ("step", *TERMS)
    }


def fit_advice(records: Records, num_data: int, logits: Values, labels: Values) -> str | None:
    """Say whether a fit is unfinished or overdone, and what to change.

    It is unfinished if its held-out confidence lies below the 95 % interval of its accuracy, and
    overdone if above it, each by 0.05 from the accuracy at least.  If it is neither, its training
    NLL may still have been falling: from the last but one fifth of the steps to the last by 0.1
    nats an example, and by two standard errors.

    Parameters
    ----------
    records
        What ``blob_pyro.training.fit`` returns, of one fit.
    num_data
        How many examples it was trained on.
    logits
        K x N x C, float, of N examples that were not trained on.
    labels
        N, integer, from 0 to C - 1.

    Returns
    -------
    str or None
        A sentence; None if there is nothing to change.

    Raises
    ------
    ValueError
        If there is no record, or logits or labels are not valid.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> records = [SimpleNamespace(step=i, loss=1.0, nll=1.0, kl=0.0, kl_weight=0.0)
    ...            for i in range(10)]
    >>> (fit_advice(records, 10, [[[0.1, 0.0]] * 50], [0] * 50) or "").partition(":")[0]
    'the fit is unfinished'
    """
    right, confident = accuracy(logits, labels), float(np.mean(max_probability(logits)))
    num = len(np.asarray(labels))
    low, high = (float(end) for end in wilson_interval(np.array(right * num), np.array(num)))
    told = (
        f"mean confidence {confident:.2f}, accuracy {right:.2f} [{low:.2f}, {high:.2f}] on {num} "
        "held-out examples"
    )
    if confident < min(low, right - _GAP):
        return (
            f"the fit is unfinished: {told}; give twice the steps ({2 * len(records)}), and if "
            "that does not help, a smaller kl_scale or init_scale"
        )
    if confident > max(high, right + _GAP):
        return (
            f"the fit is overdone: {told}; give half the steps ({math.ceil(len(records) / 2)}), a "
            "larger kl_scale, or more examples"
        )
    if len(records) < _FEWEST:
        return None
    nll = loss_curve(records)["nll"] / num_data
    fifth = len(nll) // 5
    before, after = nll[-2 * fifth : -fifth], nll[-fifth:]
    fall = before.mean() - after.mean()
    error = math.hypot(before.std(), after.std()) / math.sqrt(fifth)
    if fall > max(2 * error, _FALL):
        return (
            f"the training NLL was still falling, from {before.mean():.2f} to {after.mean():.2f} "
            f"nats an example in the last fifths of the steps; twice the steps "
            f"({2 * len(records)}) may learn more"
        )
    return None
