"""The latent sites of a network: finding them, and running them again with an earlier draw."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from blob_pyro.lora.projection import LoraProjection
from blob_pyro.poutine import AppliedWeight

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


class CheckpointContexts:
    """Make ``torch.utils.checkpoint`` recompute each segment with the draw it first ran with.

    Needed where several draws are made before one backward pass; see
    ``BayesianLora.gradient_checkpointing_enable``, which passes it on.  An object and no
    closure, so that ``copy.deepcopy`` of a network makes it follow the copy.

    Parameters
    ----------
    net
        A PEFT model that went through :func:`bayesianize`.
    adapter
        Name of the Bayesian adapter.
    """

    def __init__(self, net: nn.Module, adapter: str = "default") -> None:
        self._projections = [site.projection for site in lora_sites(net, adapter).values()]

    def __call__(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Give the contexts of the forward pass and of the recomputation: a ``context_fn``."""
        applied = [projection._applied for projection in self._projections]
        return nullcontext(), reinstalled(self._projections, applied)


@contextmanager
def reinstalled(
    projections: Sequence[LoraProjection], applied: Sequence[AppliedWeight | None]
) -> Iterator[None]:
    """Make projections apply something else for a while."""
    current = [projection._applied for projection in projections]
    _set_applied(projections, applied)
    try:
        yield
    finally:
        _set_applied(projections, current)


def _set_applied(
    projections: Sequence[LoraProjection], applied: Sequence[AppliedWeight | None]
) -> None:
    for projection, function in zip(projections, applied, strict=True):
        projection._applied = function
