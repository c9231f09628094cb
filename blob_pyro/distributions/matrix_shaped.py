"""A distribution over vectors, seen as one over matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch.distributions.transforms import ReshapeTransform
from typing_extensions import override


class MatrixShaped(dist.TransformedDistribution):
    r"""A Gaussian over vectors whose draws are laid out as matrices, row after row.

    Parameters
    ----------
    base
        Distribution over vectors of length :math:`r n`, such as a ``MultivariateNormal`` or a
        ``LowRankMultivariateNormal``.
    shape
        ``(r, n)``.

    Raises
    ------
    ValueError
        If the vectors have another length.

    Examples
    --------
    >>> base = dist.MultivariateNormal(torch.zeros(6), scale_tril=torch.eye(6))
    >>> q = MatrixShaped(base, (2, 3))
    >>> q.rsample((5,)).shape
    torch.Size([5, 2, 3])
    >>> q.mean.shape
    torch.Size([2, 3])
    """

    def __init__(
        self, base: dist.TorchDistribution, shape: Sequence[int], validate_args: bool | None = None
    ) -> None:
        reshape = ReshapeTransform(base.event_shape, torch.Size(shape))
        super().__init__(base, [reshape], validate_args=validate_args)

    @override
    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> MatrixShaped:
        new: MatrixShaped = self._get_checked_instance(MatrixShaped, _instance)
        super().expand(torch.Size(batch_shape), _instance=new)
        return new

    @property
    def mean(self) -> torch.Tensor:
        """The mean, shape ``(..., r, n)``."""
        return self._as_matrix(self.base_dist.mean)

    @property
    def variance(self) -> torch.Tensor:
        """Variances of the entries, shape ``(..., r, n)``."""
        return self._as_matrix(self.base_dist.variance)

    @override
    def entropy(self) -> torch.Tensor:
        """Differential entropy, nats, shape ``(...)``: a new layout changes no volume."""
        entropy: torch.Tensor = self.base_dist.entropy()
        return entropy

    def _as_matrix(self, vector: torch.Tensor) -> torch.Tensor:
        return vector.reshape(self.batch_shape + self.event_shape)
