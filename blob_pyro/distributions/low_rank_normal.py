"""A low-rank plus diagonal Gaussian that is cheap to draw from."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import LowRankMultivariateNormal, constraints
from typing_extensions import override

from blob_pyro.distributions.located import Located


class LowRankNormal(Located):
    r"""A Gaussian over vectors with covariance :math:`F F^\top + diag(\sigma^2)`.

    The same as ``LowRankMultivariateNormal``, which factorises a matrix when it is made; this one
    does so only when a density is asked for, and then in float64: over many weights
    :math:`I + F^\top diag(\sigma^{-2}) F` is too ill-conditioned for less.  Where
    :math:`\sigma_j = 0` it can be drawn from but has no density.

    Parameters
    ----------
    loc
        Mean, shape ``(..., d)``.
    factor
        :math:`F`, shape ``(d, k)``.
    scale
        :math:`\sigma`, shape ``(d,)``, not negative.

    Examples
    --------
    >>> q = LowRankNormal(torch.zeros(3), torch.ones(3, 2), torch.ones(3))
    >>> q.variance
    tensor([3., 3., 3.])
    >>> q.sample((5,)).shape
    torch.Size([5, 3])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real_vector,
        "factor": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.nonnegative, 1),
    }
    support = constraints.real_vector

    def __init__(
        self,
        loc: torch.Tensor,
        factor: torch.Tensor,
        scale: torch.Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.factor, self.scale = loc, factor, scale
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    @property
    def variance(self) -> torch.Tensor:
        """Variances of the entries, shape ``(..., d)``."""
        return (self.factor.square().sum(-1) + self.scale.square()).expand_as(self.loc)

    @override
    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> torch.Tensor:
        """Draw vectors that gradients flow through."""
        shape = torch.Size(sample_shape) + self.batch_shape
        common = self.loc.new_empty(shape + self.factor.shape[-1:]).normal_()
        return self.loc + common @ self.factor.mT + self.scale * self._noise(sample_shape)

    @override
    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log density, nats, shape ``(...)``, in the dtype of the mean."""
        loc, factor, scale = (part.double() for part in (self.loc, self.factor, self.scale))
        dense = LowRankMultivariateNormal(loc, factor, scale.square(), validate_args=False)
        return dense.log_prob(value.double()).to(self.loc)
