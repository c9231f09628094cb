"""The matrix normal distribution: a Gaussian whose covariance is a Kronecker product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from typing_extensions import override


class MatrixNormal(TorchDistribution):
    r"""A Gaussian over :math:`r \times n` matrices, :math:`Cov(A_{ij}, A_{kl}) = U_{ik} V_{jl}`.

    With the rows of :math:`A` one after another its covariance is the Kronecker product
    :math:`U \otimes V`, where :math:`U = R R^\top` and :math:`V = C C^\top`; a draw is
    :math:`M + R E C^\top` with :math:`E` standard normal.  Only :math:`R` and :math:`C` are held.

    Parameters
    ----------
    loc
        Mean :math:`M`, shape ``(..., r, n)``.
    row_tril
        Lower triangular :math:`R` with positive diagonal, shape ``(..., r, r)``.
    col_tril
        Lower triangular :math:`C` with positive diagonal, shape ``(..., n, n)``.  The leading
        dimensions of the three are broadcast.

    Raises
    ------
    ValueError
        If a factor does not have the size of the matrix's side.

    Examples
    --------
    >>> q = MatrixNormal(torch.zeros(2, 3), torch.eye(2), 2 * torch.eye(3))
    >>> q.rsample((5,)).shape
    torch.Size([5, 2, 3])
    >>> q.variance
    tensor([[4., 4., 4.],
            [4., 4., 4.]])

    References
    ----------
    Dawid, "Some matrix-variate distribution theory", Biometrika 1981.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.independent(constraints.real, 2),
        "row_tril": constraints.lower_cholesky,
        "col_tril": constraints.lower_cholesky,
    }
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(
        self,
        loc: torch.Tensor,
        row_tril: torch.Tensor,
        col_tril: torch.Tensor,
        validate_args: bool | None = None,
    ) -> None:
        event_shape = loc.shape[-2:]
        for name, factor, size in zip(
            ("row_tril", "col_tril"), (row_tril, col_tril), event_shape, strict=True
        ):
            if factor.shape[-2:] != (size, size):
                raise ValueError(
                    f"{name} has shape {tuple(factor.shape)} but a mean of shape "
                    f"{tuple(loc.shape)} needs (..., {size}, {size})"
                )
        batch_shape = torch.broadcast_shapes(
            loc.shape[:-2], row_tril.shape[:-2], col_tril.shape[:-2]
        )
        self.loc = loc.expand(batch_shape + event_shape)
        # As given: a batch that only repeats them would turn one product into many.
        self.row_tril = row_tril
        self.col_tril = col_tril
        super().__init__(batch_shape, event_shape, validate_args=validate_args)

    @override
    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> MatrixNormal:
        new: MatrixNormal = self._get_checked_instance(MatrixNormal, _instance)
        shape = torch.Size(batch_shape)
        new.loc = self.loc.expand(shape + self.event_shape)
        new.row_tril, new.col_tril = self.row_tril, self.col_tril
        super(MatrixNormal, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> torch.Tensor:
        """The mean, shape ``(..., r, n)``."""
        return self.loc

    @property
    def variance(self) -> torch.Tensor:
        """Variances of the entries, shape ``(..., r, n)``."""
        rows = self.row_tril.square().sum(-1)
        columns = self.col_tril.square().sum(-1)
        return (rows[..., :, None] * columns[..., None, :]).expand_as(self.loc)

    @override
    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> torch.Tensor:
        """Draw matrices that gradients flow through."""
        noise = torch.randn_like(self.loc.expand(torch.Size(sample_shape) + self.loc.shape))
        return self.loc + self.row_tril @ noise @ self.col_tril.mT

    @override
    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log density, nats, shape ``(...)``."""
        if self._validate_args:
            self._validate_sample(value)
        noise = torch.linalg.solve_triangular(self.row_tril, value - self.loc, upper=False)
        noise = torch.linalg.solve_triangular(self.col_tril.mT, noise, upper=True, left=False)
        squares = noise.square().sum((-2, -1))
        return -0.5 * (squares + self._size * math.log(2 * math.pi)) - self._half_log_det()

    @override
    def entropy(self) -> torch.Tensor:
        """Differential entropy, nats, shape ``(...)``."""
        entropy = 0.5 * self._size * (1 + math.log(2 * math.pi)) + self._half_log_det()
        return entropy.expand(self.batch_shape)

    @property
    def _size(self) -> int:
        return self.event_shape.numel()

    def _half_log_det(self) -> torch.Tensor:
        r, n = self.event_shape
        rows, columns = (
            factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            for factor in (self.row_tril, self.col_tril)
        )
        return n * rows + r * columns
