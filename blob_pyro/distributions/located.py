"""What distributions about a mean have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from pyro.distributions import TorchDistribution, constraints
from torch.distributions import Independent, Normal
from typing_extensions import override


class Located(TorchDistribution):
    """A distribution about ``loc``, whose other parameters are as given whatever the batch.

    A batch that only repeats them would turn one product into many.
    """

    support = constraints.independent(constraints.real, 2)
    has_rsample = True
    loc: torch.Tensor

    @override
    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        new: Self = self._get_checked_instance(type(self), _instance)
        shape = torch.Size(batch_shape)
        new.__dict__.update(self.__dict__, loc=self.loc.expand(shape + self.event_shape))
        TorchDistribution.__init__(new, shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> torch.Tensor:
        """The mean, of the shape of a draw."""
        return self.loc

    def _noise(self, sample_shape: Sequence[int]) -> torch.Tensor:
        return torch.randn_like(self.loc.expand(torch.Size(sample_shape) + self.loc.shape))


def normal_entries(prior: Independent[Any], event_shape: torch.Size) -> Normal:
    """Give the independent normals of a prior over matrices, or raise ``NotImplementedError``."""
    base = prior.base_dist
    if not isinstance(base, Normal) or prior.event_shape != event_shape:
        raise NotImplementedError(
            f"no closed form from {type(base).__name__} with event shape "
            f"{tuple(prior.event_shape)}; give Normal(...).to_event(2) of shape {(*event_shape,)}"
        )
    return base
