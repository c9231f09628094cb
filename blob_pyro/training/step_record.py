"""What is logged of a gradient step, and showing how far training is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console

from blob_pyro.guides import LoraGuide
from blob_pyro.infer.progress import Progress
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


class TrainingProgress:
    """Shows step, loss and time left; a context manager that gives ``fit`` its ``on_step``.

    Parameters
    ----------
    name
        What is trained.
    num_steps
        Gradient steps until it is done; None if nobody knows yet.
    console
        Where to show it: as a bar on a terminal, elsewhere as a line every ten seconds.

    Examples
    --------
    >>> with TrainingProgress("BLoB", 10, Console(quiet=True)) as on_step:
    ...     on_step(StepRecord(0, 1.2, 300.0, 5e4, 1e-3, 2e-3, 0.7))
    """

    def __init__(self, name: str, num_steps: int | None, console: Console) -> None:
        self._progress = Progress(f"training {name}", num_steps, console)
        self._earlier, self._taken = 0, 0

    def __enter__(self) -> Callable[[StepRecord], None]:
        self._progress.__enter__()
        return self._on_step

    def __exit__(self, *exc_info: object) -> None:
        self._progress.__exit__(*exc_info)

    def _on_step(self, record: StepRecord) -> None:
        if record.step < self._taken:
            # Another run, such as an ensemble's next member.
            self._earlier += self._taken
        self._taken = record.step + 1
        self._progress.update(self._earlier + self._taken, f"loss {record.loss:.3f}")
