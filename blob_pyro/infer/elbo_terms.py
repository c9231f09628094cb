"""What the loss of a step was made of, and whether it is a number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pyro.infer.util import is_validation_enabled, torch_item


@dataclass(frozen=True)
class ELBOTerms:
    """What one evaluation of the ELBO was made of; scalars, detached.

    Parameters
    ----------
    step
        Gradient steps taken before the evaluation.
    nll
        Negative log likelihood, nats, scaled up from the batch to the data set.
    kl
        KL divergence of the guide from the prior, nats, all latent sites, unweighted.
    kl_weight
        What ``kl`` was multiplied by.
    loss
        ``nll + kl_weight * kl``, divided by the data size if ``per_datum``: what is optimised.
    """

    step: int
    nll: torch.Tensor
    kl: torch.Tensor
    kl_weight: float
    loss: torch.Tensor

    def __add__(self, other: ELBOTerms) -> ELBOTerms:
        """Add up the parts that single draws contribute to one step."""
        return ELBOTerms(
            self.step,
            self.nll + other.nll,
            self.kl + other.kl,
            self.kl_weight,
            self.loss + other.loss,
        )


def check_finite(terms: ELBOTerms) -> None:
    """Raise a ``FloatingPointError`` where the loss is no number, if Pyro's validation is on."""
    if is_validation_enabled() and not math.isfinite(torch_item(terms.loss)):
        raise FloatingPointError(
            f"loss is {torch_item(terms.loss)} at step {terms.step} "
            f"(nll={torch_item(terms.nll)}, kl={torch_item(terms.kl)}, "
            f"kl_weight={terms.kl_weight}); the parameters are those after the step before. "
            "Lower the learning rate, or clip gradients"
        )


def check_gradient(norm: torch.Tensor, step: int) -> float:
    """Give a gradient's norm as a number, or raise a ``FloatingPointError`` if it is none."""
    value = float(norm)
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the gradient's norm is {value} at step {step}; the parameters are those after the "
            "step before. Lower the learning rate"
        )
    return value
