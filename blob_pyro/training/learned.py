"""Everything that training changes in a program: the guide, and the model's point estimates."""

from __future__ import annotations

from collections.abc import Mapping

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
