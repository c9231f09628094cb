"""Gradient steps: one optimiser for the whole loss, or one for each term."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from torch import nn
from transformers import get_linear_schedule_with_warmup

from blob_pyro.guides import LoraGuide
from blob_pyro.infer import DecoupledSVI, ReweightedTrace_ELBO, check_gradient
from blob_pyro.models import Classifier
from blob_pyro.training.batches import Batch
from blob_pyro.training.config import TrainingConfig


class Steps(Protocol):
    """Takes gradient steps, on the accelerator's device."""

    @property
    def lr(self) -> float:
        """Rate of ``B`` and ``M`` in the next step."""

    def take(self, batch: Batch) -> float:
        """Take a step and give the gradient's norm, before clipping."""


class JointSteps:
    """AdamW on the whole loss, through the ELBO as a module that accelerate can wrap."""

    def __init__(
        self,
        model: Classifier,
        guide: LoraGuide,
        elbo: ReweightedTrace_ELBO,
        config: TrainingConfig,
        accelerator: Accelerator,
    ) -> None:
        self._elbo = elbo
        self._accelerator = accelerator
        self._max_grad_norm = config.max_grad_norm or float("inf")
        self._module, self._optimizer = accelerator.prepare(
            elbo(model, guide), _adamw(model, guide, config)
        )
        self._schedule = _schedule(config)(self._optimizer)

    @property
    def lr(self) -> float:
        """See :class:`Steps`."""
        return float(self._schedule.get_last_lr()[0])

    def take(self, batch: Batch) -> float:
        """See :class:`Steps`."""
        step = self._elbo.step
        self._optimizer.zero_grad()
        self._accelerator.backward(self._module(**batch))
        norm = self._accelerator.clip_grad_norm_(self._module.parameters(), self._max_grad_norm)
        grad_norm = check_gradient(norm, step)
        self._optimizer.step()
        self._schedule.step()
        return grad_norm


class DecoupledSteps:
    """AdamW on the likelihood, then SGD on the KL divergence."""

    def __init__(
        self,
        model: Classifier,
        guide: LoraGuide,
        elbo: ReweightedTrace_ELBO,
        config: TrainingConfig,
        accelerator: Accelerator,
    ) -> None:
        self._svi = DecoupledSVI(
            model.to(accelerator.device),
            guide.to(accelerator.device),
            lambda parameters: torch.optim.AdamW(
                _by_decay(parameters, model, guide, config),
                lr=config.learning_rate,
                weight_decay=0.0,
            ),
            partial(torch.optim.SGD, lr=cast(float, config.kl_learning_rate)),
            elbo,
            spread_updates=config.spread_updates,
            scheduler=_schedule(config),
            kl_scheduler=_schedule(config),
            max_grad_norm=config.max_grad_norm,
        )

    @property
    def lr(self) -> float:
        """See :class:`Steps`."""
        return float(self._svi.optim.param_groups[0]["lr"])

    def take(self, batch: Batch) -> float:
        """See :class:`Steps`."""
        self._svi.step(**batch)
        return self._svi.grad_norm


def _schedule(config: TrainingConfig) -> Any:
    return partial(
        get_linear_schedule_with_warmup,
        num_warmup_steps=config.num_warmup_steps,
        num_training_steps=config.num_steps,
    )


def _adamw(model: Classifier, guide: LoraGuide, config: TrainingConfig) -> torch.optim.Optimizer:
    points = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = _by_decay([*points, *guide.M.parameters()], model, guide, config)
    if spread := guide.spread_parameters():
        groups.append({"params": spread, "lr": config.scale_learning_rate})
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=0.0)


def _by_decay(
    parameters: Iterable[nn.Parameter], model: Classifier, guide: LoraGuide, config: TrainingConfig
) -> list[dict[str, Any]]:
    """Put ``B`` into a group of its own; of ``A``, the prior is the regulariser."""
    named = (*model.named_parameters(), *guide.M.items())
    ups = {id(parameter) for name, parameter in named if "lora_B" in name}
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for parameter in parameters:
        groups[id(parameter) in ups].append(parameter)
    return [
        {"params": groups[False]},
        {"params": groups[True], "weight_decay": config.weight_decay},
    ]
