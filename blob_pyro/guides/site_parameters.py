"""A variational parameter for each latent site, and where a scale starts."""

import math
from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import nn

from blob_pyro.poutine import in_turn, local_param


class SiteParameters(nn.Module):
    """Parameters found by the dotted name of their site, which is also their name on disk.

    A guide keeps what it learns in one for each kind, such as the means ``M`` of every
    :class:`LoraGuide`.

    Parameters
    ----------
    values
        Site name to initial value, any shapes.

    Examples
    --------
    >>> parameters = SiteParameters({"layer.lora_A.weight": torch.zeros(2, 3)})
    >>> list(parameters.state_dict())
    ['layer.lora_A.weight']
    >>> parameters["layer.lora_A.weight"].shape
    torch.Size([2, 3])

    In a guide's ``site_posterior``, so that SVI finds what it has to learn:

    >>> import pyro
    >>> with pyro.poutine.trace() as tracer:
    ...     loc = parameters.pyro_param("M", "layer.lora_A.weight")
    >>> tracer.trace.param_nodes
    ['M.layer.lora_A.weight']
    """

    def __init__(self, values: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        # Where each parameter is, since walking its path at every step takes time.
        self._places: dict[str, tuple[nn.Module, str]] = {}
        for name, value in values.items():
            *path, leaf = name.split(".")
            owner: nn.Module = self
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            owner.register_parameter(leaf, nn.Parameter(value.detach().clone()))
            self._places[name] = (owner, leaf)

    def __getitem__(self, name: str) -> nn.Parameter:
        owner, leaf = self._places[name]
        return cast(nn.Parameter, owner._parameters[leaf])

    def items(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Go over site names and parameters."""
        return ((name, self[name]) for name in self)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def pyro_param(self, prefix: str, name: str) -> torch.Tensor:
        """State the parameter of a site to Pyro as ``prefix.name`` and return its value.

        By :func:`blob_pyro.poutine.local_param`: two guides never share one.
        """
        return local_param(f"{prefix}.{name}", self[name])


def check_init_scale(init_scale: float) -> float:
    """Give an initial scale back, or raise a ``ValueError``.

    Parameters
    ----------
    init_scale
        Standard deviation that a posterior starts with; positive and finite.

    Examples
    --------
    >>> check_init_scale(0.0025)
    0.0025
    """
    if not 0 < init_scale < math.inf:
        raise ValueError(
            f"init_scale={init_scale} must be positive and finite: it is a standard deviation"
        )
    return init_scale


@in_turn()
def initial_root(like: torch.Tensor, init_scale: float) -> torch.Tensor:
    """Draw roots whose squares, the scales, lie between a half of ``init_scale`` and all of it."""
    low, high = math.sqrt(init_scale / 2), math.sqrt(init_scale)
    return torch.empty_like(like, requires_grad=False).uniform_(low, high)
