"""Finding the latent sites of a network, each with the PEFT layer it belongs to."""

from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from blob_pyro.lora.projection import LoraProjection

Matrix = Literal["A", "B"]
Latent = tuple[Matrix, ...]


@dataclass(frozen=True)
class LoraSite:
    """A latent site together with the PEFT layer that it belongs to."""

    layer: LoraLayer
    adapter: str
    matrix: Matrix = "A"

    @property
    def projection(self) -> LoraProjection:
        """The module that stands in ``lora_A`` (or ``lora_B``)."""
        return cast(LoraProjection, getattr(self.layer, f"lora_{self.matrix}")[self.adapter])

    @property
    def lora_B(self) -> torch.Tensor:
        """Up-projection, shape ``(m, r)``; if it is latent, the last draw or where it started."""
        return cast(torch.Tensor, self.layer.lora_B[self.adapter].weight)

    @property
    def scaling(self) -> float:
        """The factor ``s``: ``lora_alpha / r``, or ``lora_alpha / sqrt(r)`` for rsLoRA."""
        return float(self.layer.scaling[self.adapter])


def lora_sites(net: nn.Module, adapter: str = "default") -> dict[str, LoraSite]:
    """Find the latent sites of a network that went through :func:`bayesianize`.

    Parameters
    ----------
    net
        A PEFT model.
    adapter
        Name of the Bayesian adapter.

    Returns
    -------
    dict
        Site name to :class:`LoraSite`, in the network's order, ``A`` before ``B`` in a layer; empty
        if nothing is Bayesian.
    """
    layers = (module for module in net.modules() if isinstance(module, LoraLayer))
    sites = (
        LoraSite(layer, adapter, matrix)
        for layer in layers
        if adapter in layer.lora_A
        for matrix in get_args(Matrix)
    )
    return {
        site.projection.name: site for site in sites if isinstance(site.projection, LoraProjection)
    }
