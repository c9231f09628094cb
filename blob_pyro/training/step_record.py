"""What is logged of a gradient step."""

from __future__ import annotations

from dataclasses import dataclass

from blob_pyro.infer import ReweightedTrace_ELBO


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
    """

    step: int
    loss: float
    nll: float
    kl: float
    kl_weight: float
    lr: float
    grad_norm: float


def record_of(elbo: ReweightedTrace_ELBO, step: int, lr: float, grad_norm: float) -> StepRecord:
    """Record the step whose terms an objective still holds."""
    terms = elbo.terms
    assert terms is not None  # a step has just been taken
    return StepRecord(
        step=step,
        loss=float(terms.loss),
        nll=float(terms.nll),
        kl=float(terms.kl),
        kl_weight=terms.kl_weight,
        lr=lr,
        grad_norm=grad_norm,
    )
