"""The optimisers' parameter groups and the schedule of their rates."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import get_linear_schedule_with_warmup

from blob_pyro.guides import LoraGuide
from blob_pyro.models import BayesianLora
from blob_pyro.training.config import TrainingConfig


def schedule(config: TrainingConfig) -> Any:
    """Give what makes the schedule of an optimiser: rates that rise, then fall linearly to 0."""
    return partial(
        get_linear_schedule_with_warmup,
        num_warmup_steps=config.num_warmup_steps,
        num_training_steps=config.num_steps,
    )


def adamw(model: BayesianLora, guide: LoraGuide, config: TrainingConfig) -> torch.optim.Optimizer:
    """Make the optimiser of the whole loss."""
    points = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = by_decay([*points, *guide.M.parameters()], model, guide, config)
    if spread := guide.spread_parameters():
        groups.append({"params": spread, "lr": config.scale_learning_rate})
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=0.0)


def by_decay(
    parameters: Iterable[nn.Parameter],
    model: BayesianLora,
    guide: LoraGuide,
    config: TrainingConfig,
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
