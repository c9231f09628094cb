"""A Gaussian over matrices whose precision is a Kronecker product plus a multiple of one."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import constraints
from typing_extensions import override

from blob_pyro.distributions.located import MatrixGaussian


class KroneckerPrecisionNormal(MatrixGaussian):
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
        r, n = loc.shape[-2:]
        if len(row_basis) != r or len(col_basis) != n:
            raise ValueError(
                f"row_basis has shape {(*row_basis.shape,)} and col_basis {(*col_basis.shape,)}, "
                f"but a mean of shape {(*loc.shape,)} needs {r} and {n} rows"
            )
        self.loc = loc
        self.row_basis, self.row_values = row_basis, row_values
        self.col_basis, self.col_values = col_basis, col_values
        self.precision = precision
        super().__init__(loc.shape[:-2], loc.shape[-2:], validate_args=validate_args)

    @property
    def variance(self) -> torch.Tensor:
        """Variances of the entries, shape ``(..., r, n)``."""
        one = torch.eye(self.event_shape[0]).to(self.loc)
        return self.product_variance(one).expand_as(self.loc)

    def product_variance(self, left: torch.Tensor) -> torch.Tensor:
        """Variances of the entries of ``left @ A``, ``m x n``, for ``left`` of shape ``m x r``."""
        rows, columns = (left @ self.row_basis).square(), self.col_basis.square()
        total = left.square().sum(-1)
        # A square basis spans all, whatever its rounding.
        in_rows = total if len(self.row_basis) == rows.shape[1] else rows.sum(-1)
        one = columns.new_ones(len(columns))
        in_columns = one if len(columns) == columns.shape[1] else columns.sum(-1)
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
        return self.loc + self.scaled(self._noise(sample_shape))

    @override
    def _squares(self, deviation: torch.Tensor) -> torch.Tensor:
        within = self.row_basis.mT @ deviation @ self.col_basis
        squares = self.precision * deviation.square().sum((-2, -1))
        return squares + (self._curvatures() * within.square()).sum((-2, -1))

    @override
    def _half_log_det(self) -> torch.Tensor:
        return -0.5 * self.log_det_precision()

    def log_det_precision(self) -> torch.Tensor:
        """Log determinant of the precision, a scalar."""
        precisions = self._precisions()
        outside = self.event_shape.numel() - precisions.numel()
        return precisions.log().sum() + outside * math.log(self.precision)

    def _curvatures(self) -> torch.Tensor:
        return torch.outer(self.row_values, self.col_values)

    def _precisions(self) -> torch.Tensor:
        return self._curvatures() + self.precision
