"""The training loop: the ELBO as a module, any guide, on whatever device accelerate finds."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from pyro.infer.elbo import ELBOModule
from torch.utils.data import DataLoader
from transformers import get_linear_schedule_with_warmup
from transformers.trainer_pt_utils import LengthGroupedSampler

from blob_pyro.guides import LoraGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import Classifier
from blob_pyro.poutine import flipout

Collator = Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast to train.

    Parameters
    ----------
    num_steps
        Gradient steps.
    batch_size
        Examples a step.
    learning_rate
        Peak rate of AdamW for ``B``, heads and the posterior means ``M``.
    scale_learning_rate
        Peak rate for the rest of the guide, such as ``G``.
    warmup_fraction
        Share of the steps in which the rates rise linearly; then they fall linearly to zero.
    max_grad_norm
        Gradients are clipped to this norm.
    flipout
        Whether examples get decorrelated noise (see :func:`blob_pyro.poutine.flipout`).
    seed
        Seed of the order of the data.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    num_steps: int = 200
    batch_size: int = 8
    learning_rate: float = 2e-3
    scale_learning_rate: float = 1e-3
    warmup_fraction: float = 0.06
    max_grad_norm: float = 1.0
    flipout: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("learning_rate", "scale_learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be positive and finite")
        if not 0 <= self.warmup_fraction <= 1:
            raise ValueError(f"warmup_fraction={self.warmup_fraction} must lie between 0 and 1")


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
    learning_rate
        Rate of ``B`` and ``M`` in this step.
    grad_norm
        Norm of all gradients before clipping.
    """

    step: int
    loss: float
    nll: float
    kl: float
    kl_weight: float
    learning_rate: float
    grad_norm: float


def flush_denormals() -> None:
    """Let the CPU take numbers below 1e-38 for zero.

    Gradients of tokens far from the answer become that small, and some CPUs then compute several
    times slower.  Threads inherit the setting when they start, so call this before the first
    tensor operation of a program; :func:`fit` calls it too, which is late for threads that run.
    """
    torch.set_flush_denormal(True)


def fit(
    model: Classifier,
    guide: LoraGuide,
    elbo: ReweightedTrace_ELBO,
    data: Dataset,
    collator: Collator,
    config: TrainingConfig,
    *,
    on_step: Callable[[StepRecord], None] | None = None,
) -> list[StepRecord]:
    """Fit a guide and the model's point estimates to a data set, in place.

    Parameters
    ----------
    model, guide
        The program; afterwards both are on accelerate's device.
    elbo
        The objective, which counts the steps.
    data
        Examples for the collator, with a column ``text`` by whose length batches are grouped.
    collator
        Makes the model's keywords, ``labels`` among them, from a list of examples.
    config
        Steps, rates and seed.
    on_step
        Called with each record, for progress bars and logs.

    Returns
    -------
    list of StepRecord
        One a step.

    Raises
    ------
    ValueError
        If the data set is empty.
    FloatingPointError
        If loss or gradient is not finite; the parameters are those after the step before.
    """
    if len(data) == 0:
        raise ValueError("the training data are empty; give at least one labelled text")
    flush_denormals()
    accelerator = Accelerator()
    optimizer = _optimizer(model, guide, config)
    module, optimizer, loader = accelerator.prepare(
        elbo(model, guide), optimizer, _loader(data, collator, config)
    )
    schedule = get_linear_schedule_with_warmup(
        optimizer, round(config.warmup_fraction * config.num_steps), config.num_steps
    )
    module.train()
    records: list[StepRecord] = []
    while len(records) < config.num_steps:
        for batch in loader:
            learning_rate = schedule.get_last_lr()[0]
            optimizer.zero_grad()
            grad_norm = _take_gradient(accelerator, module, batch, config)
            _check_gradient(len(records), grad_norm)
            optimizer.step()
            schedule.step()
            records.append(_record(elbo, len(records), learning_rate, grad_norm))
            if on_step is not None:
                on_step(records[-1])
            if len(records) == config.num_steps:
                break
    return records


def _optimizer(
    model: Classifier, guide: LoraGuide, config: TrainingConfig
) -> torch.optim.Optimizer:
    means = list(guide.M.parameters())
    points = [parameter for parameter in model.parameters() if parameter.requires_grad]
    scales = guide.spread_parameters()
    groups: list[dict[str, Any]] = [{"params": points + means, "lr": config.learning_rate}]
    if scales:
        groups.append({"params": scales, "lr": config.scale_learning_rate})
    # The prior is the regulariser: weight decay would be a second one.
    return torch.optim.AdamW(groups, weight_decay=0.0)


def _loader(data: Dataset, collator: Collator, config: TrainingConfig) -> DataLoader[Any]:
    # Texts of about one length share a batch, so that little time goes into padding.
    sampler = LengthGroupedSampler(
        config.batch_size,
        lengths=[len(text) for text in data["text"]],
        generator=torch.Generator().manual_seed(config.seed),
    )
    return DataLoader(data, batch_size=config.batch_size, sampler=sampler, collate_fn=collator)


def _take_gradient(
    accelerator: Accelerator,
    module: ELBOModule,
    batch: dict[str, torch.Tensor],
    config: TrainingConfig,
) -> float:
    with flipout() if config.flipout else nullcontext():
        loss = module(**batch)
    accelerator.backward(loss)
    return float(accelerator.clip_grad_norm_(module.parameters(), config.max_grad_norm))


def _check_gradient(step: int, grad_norm: float) -> None:
    if not math.isfinite(grad_norm):
        raise FloatingPointError(
            f"the gradient's norm is {grad_norm} at step {step}; the parameters are those after "
            "the step before. Lower the learning rate"
        )


def _record(
    elbo: ReweightedTrace_ELBO, step: int, learning_rate: float, grad_norm: float
) -> StepRecord:
    terms = elbo.terms
    assert terms is not None  # a step has just been taken
    return StepRecord(
        step=step,
        loss=float(terms.loss),
        nll=float(terms.nll),
        kl=float(terms.kl),
        kl_weight=terms.kl_weight,
        learning_rate=learning_rate,
        grad_norm=grad_norm,
    )
