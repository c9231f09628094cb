"""A Gaussian over matrices whose precision is a Kronecker product plus a multiple of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from typing_extensions import override


class KroneckerPrecisionNormal(TorchDistribution):
    r"""A Gaussian over :math:`r \times n` matrices, precision :math:`\lambda I + G \otimes H`.

    :math:`G = U diag(g) U^\top` acts on rows and :math:`H = V diag(h) V^\top` on columns, with the
    rows of the matrix one after another.  Either may be of low rank: what its basis leaves out has
    the precision :math:`\lambda`.  Neither an :math:`n \times n` nor an :math:`r \times r` matrix
    is built.

    Parameters
    ----------
    loc
        Mean, shape ``(..., r, n)``.
    row_basis, row_values
        Orthonormal columns :math:`U`, ``r x p``, and :math:`g`, ``p``, not negative.
    col_basis, col_values
        Orthonormal columns :math:`V`, ``n x q``, and :math:`h`, ``q``, not negative.
    precision
        :math:`\lambda`, positive, in the units of one over a variance.

    Raises
    ------
    ValueError
        If a basis does not have the size of the matrix's side.

    Examples
    --------
    >>> q = KroneckerPrecisionNormal(torch.zeros(2, 3), torch.eye(2), torch.tensor([3.0, 8.0]),
    ...                              torch.eye(3)[:, :1], torch.ones(1), 1.0)
    >>> q.rsample((5,)).shape
    torch.Size([5, 2, 3])
    >>> q.stddev[:, 0]
    tensor([0.5000, 0.3333])

    References
    ----------
    Ritter, Botev and Barber, "A Scalable Laplace Approximation for Neural Networks", ICLR 2018;
    Yang et al., "Bayesian Low-rank Adaptation for Large Language Models", ICLR 2024
    (factors of low rank).
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.independent(constraints.real, 2),
        "row_values": constraints.independent(constraints.nonnegative, 1),
        "col_values": constraints.independent(constraints.nonnegative, 1),
    }
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(
        self,
        loc: torch.Tensor,
        row_basis: torch.Tensor,
        row_values: torch.Tensor,
        col_basis: torch.Tensor,
        col_values: torch.Tensor,
        precision: float,
        validate_args: bool | None = None,
    ) -> None:
        event_shape = loc.shape[-2:]
        for name, basis, size in zip(
            ("row_basis", "col_basis"), (row_basis, col_basis), event_shape, strict=True
        ):
            if basis.shape[0] != size:
                raise ValueError(
                    f"{name} has shape {tuple(basis.shape)} but a mean of shape "
                    f"{tuple(loc.shape)} needs {size} rows"
                )
        self.loc = loc
        self.row_basis, self.row_values = row_basis, row_values
        self.col_basis, self.col_values = col_basis, col_values
        self.precision = precision
        super().__init__(loc.shape[:-2], event_shape, validate_args=validate_args)

    @override
    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> KroneckerPrecisionNormal:
        new: KroneckerPrecisionNormal = self._get_checked_instance(
            KroneckerPrecisionNormal, _instance
        )
        shape = torch.Size(batch_shape)
        new.loc = self.loc.expand(shape + self.event_shape)
        new.row_basis, new.row_values = self.row_basis, self.row_values
        new.col_basis, new.col_values = self.col_basis, self.col_values
        new.precision = self.precision
        super(KroneckerPrecisionNormal, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> torch.Tensor:
        """The mean, shape ``(..., r, n)``."""
        return self.loc

    @property
    def variance(self) -> torch.Tensor:
        """Variances of the entries, shape ``(..., r, n)``."""
        one = torch.eye(self.event_shape[0], dtype=self.loc.dtype, device=self.loc.device)
        return self.product_variance(one).expand_as(self.loc)

    def product_variance(self, left: torch.Tensor) -> torch.Tensor:
        """Variances of the entries of ``left @ A``, ``m x n``, for ``left`` of shape ``m x r``."""
        rows, columns = (left @ self.row_basis).square(), self.col_basis.square()
        total = left.square().sum(-1)
        # A square basis spans all, whatever its rounding.
        in_rows = total if _is_square(self.row_basis) else rows.sum(-1)
        one = columns.new_ones(len(columns))
        in_columns = one if _is_square(self.col_basis) else columns.sum(-1)
        # Not negative but for rounding, which may exceed the variance within the bases.
        outside = (torch.outer(total, one) - torch.outer(in_rows, in_columns)).clamp(min=0)
        return outside / self.precision + rows @ self._precisions().reciprocal() @ columns.mT

    def scaled(self, matrix: torch.Tensor) -> torch.Tensor:
        r"""Apply the symmetric root of the covariance, :math:`\Sigma^{1/2} vec(X)`.

        Parameters
        ----------
        matrix
            :math:`X`, shape ``(..., r, n)``: standard normal numbers for a draw, or a Jacobian, for
            the variance of what is linear in the matrix; any floating dtype.

        Returns
        -------
        torch.Tensor
            Shape ``(..., r, n)``.
        """
        rows, columns = self.row_basis.to(matrix), self.col_basis.to(matrix)
        within = rows.mT @ matrix @ columns
        root = self.precision**-0.5
        within = (self._precisions().rsqrt() - root) * within
        return root * matrix + rows @ within @ columns.mT

    @override
    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> torch.Tensor:
        """Draw matrices that gradients flow through."""
        noise = torch.randn_like(self.loc.expand(torch.Size(sample_shape) + self.loc.shape))
        return self.loc + self.scaled(noise)

    @override
    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log density, nats, shape ``(...)``."""
        if self._validate_args:
            self._validate_sample(value)
        deviation = value - self.loc
        within = self.row_basis.mT @ deviation @ self.col_basis
        squares = self.precision * deviation.square().sum((-2, -1))
        squares = squares + (self._curvatures() * within.square()).sum((-2, -1))
        return 0.5 * (self.log_det_precision() - squares - self._size * math.log(2 * math.pi))

    @override
    def entropy(self) -> torch.Tensor:
        """Differential entropy, nats, shape ``(...)``."""
        entropy = self._size * (1 + math.log(2 * math.pi)) - self.log_det_precision()
        return (0.5 * entropy).expand(self.batch_shape)

    def log_det_precision(self) -> torch.Tensor:
        """Log determinant of the precision, a scalar."""
        precisions = self._precisions()
        outside = self._size - precisions.numel()
        return precisions.log().sum() + outside * math.log(self.precision)

    @property
    def _size(self) -> int:
        return self.event_shape.numel()

    def _curvatures(self) -> torch.Tensor:
        return torch.outer(self.row_values, self.col_values)

    def _precisions(self) -> torch.Tensor:
        return self._curvatures() + self.precision


def _is_square(basis: torch.Tensor) -> bool:
    return basis.shape[0] == basis.shape[1]
