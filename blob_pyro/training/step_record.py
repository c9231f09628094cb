"""What is logged of a gradient step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from blob_pyro.guides import LoraGuide
from blob_pyro.models import BayesianLora


def learned(model: BayesianLora, guide: LoraGuide) -> dict[str, torch.Tensor]:
    """Give the tensors themselves, by name."""
    points = {
        f"model.{name}": parameter
        for name, parameter in model.network.named_parameters()
        if parameter.requires_grad
    }
    return points | {f"guide.{name}": tensor for name, tensor in guide.state_dict().items()}


def copy_learned(model: BayesianLora, guide: LoraGuide) -> dict[str, torch.Tensor]:
    """Copy them, each on its own device."""
    return {name: tensor.detach().clone() for name, tensor in learned(model, guide).items()}


def restore_learned(
    model: BayesianLora, guide: LoraGuide, copies: Mapping[str, torch.Tensor]
) -> None:
    """Put copies in the place of the present values, bit for bit."""
    with torch.no_grad():
        for name, tensor in learned(model, guide).items():
            tensor.copy_(copies[name])


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
