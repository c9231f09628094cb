"""What is logged of a gradient step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blob_pyro.infer import ELBOTerms


@dataclass(frozen=True)
class StepRecord:
    """What happened in one gradient step; ``loss`` is the number that was optimised.

    Parameters
    ----------
    step
        Number of the step, from 0.
    loss
        ``nll + kl_weight * kl``, divided by the data size if the ELBO is ``per_datum``.
    nll, kl
        Nats, summed over the data set.
    kl_weight
        Weight of ``kl`` in this step.
    lr
        Rate of ``B`` and ``M`` in this step.
    grad_norm
        Norm of the gradients before clipping (with a KL step of its own: of the likelihood's).
    validation_nll
        Mean NLL of the validation data under the posterior mean after this step, in nats; None
        where it was not computed.
    """

    step: int
    loss: float
    nll: float
    kl: float
    kl_weight: float
    lr: float
    grad_norm: float
    validation_nll: float | None = None


def best_step(records: Sequence[StepRecord]) -> int | None:
    """Find the step whose state early stopping kept; None without validation.

    Examples
    --------
    >>> records = [StepRecord(step, 1.2, 300.0, 5e4, 1e-3, 2e-3, 0.7, nll)
    ...            for step, nll in enumerate([None, 0.9, None, 0.8, None, 1.1])]
    >>> best_step(records)
    3
    """
    scores = {r.step: r.validation_nll for r in records if r.validation_nll is not None}
    return min(scores, key=scores.__getitem__, default=None)


def record_of(step: int, terms: ELBOTerms, lr: float, grad_norm: float) -> StepRecord:
    """Record a step from the terms of its objective."""
    return StepRecord(
        step=step,
        loss=float(terms.loss),
        nll=float(terms.nll),
        kl=float(terms.kl),
        kl_weight=terms.kl_weight,
        lr=lr,
        grad_norm=grad_norm,
    )
