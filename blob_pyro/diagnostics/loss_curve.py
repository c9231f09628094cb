"""What was logged while a guide was fitted: loss, NLL, KL and the KL's weight over steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np

from blob_pyro.diagnostics.arrays import FloatArray

TERMS = ("loss", "nll", "kl", "kl_weight")


class LossRecord(Protocol):
    """What is read of a step; ``blob_pyro.training.StepRecord`` has it."""

    @property
    def step(self) -> int:
        """Number of the step."""

    @property
    def loss(self) -> float:
        """What was descended."""

    @property
    def nll(self) -> float:
        """Negative log-likelihood, nats, summed over the data set."""

    @property
    def kl(self) -> float:
        """KL divergence of the guide from the prior, nats, unweighted."""

    @property
    def kl_weight(self) -> float:
        """What ``kl`` was multiplied by."""


Records: TypeAlias = Sequence[LossRecord]


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
        raise ValueError(
            "there are no records of steps; wanted at least one. Pass what "
            "blob_pyro.training.fit returns."
        )
    return {
        name: np.array([getattr(record, name) for record in records], dtype=np.float64)
        for name in ("step", *TERMS)
    }
