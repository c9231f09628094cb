"""The matrix normal distribution: a Gaussian whose covariance is a Kronecker product."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import constraints
from typing_extensions import override

from blob_pyro.distributions.located import MatrixGaussian


class MatrixNormal(MatrixGaussian):
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

    def __init__(
        self,
        loc: torch.Tensor,
        row_tril: torch.Tensor,
        col_tril: torch.Tensor,
        validate_args: bool | None = None,
    ) -> None:
        r, n = loc.shape[-2:]
        if row_tril.shape[-2:] != (r, r) or col_tril.shape[-2:] != (n, n):
            raise ValueError(
                f"row_tril has shape {(*row_tril.shape,)} and col_tril {(*col_tril.shape,)}, but a "
                f"mean of shape {(*loc.shape,)} needs (..., {r}, {r}) and (..., {n}, {n})"
            )
        batch_shape = torch.broadcast_shapes(
            loc.shape[:-2], row_tril.shape[:-2], col_tril.shape[:-2]
        )
        self.loc = loc.expand(batch_shape + loc.shape[-2:])
        self.row_tril, self.col_tril = row_tril, col_tril
        super().__init__(batch_shape, loc.shape[-2:], validate_args=validate_args)

    @property
    def variance(self) -> torch.Tensor:
        """Variances of the entries, shape ``(..., r, n)``."""
        rows = self.row_tril.square().sum(-1)
        columns = self.col_tril.square().sum(-1)
        return (rows[..., :, None] * columns[..., None, :]).expand_as(self.loc)

    @override
    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> torch.Tensor:
        """Draw matrices that gradients flow through."""
        return self.loc + self.row_tril @ self._noise(sample_shape) @ self.col_tril.mT

    @override
    def _squares(self, deviation: torch.Tensor) -> torch.Tensor:
        noise = torch.linalg.solve_triangular(self.row_tril, deviation, upper=False)
        noise = torch.linalg.solve_triangular(self.col_tril.mT, noise, upper=True, left=False)
        return noise.square().sum((-2, -1))

    @override
    def _half_log_det(self) -> torch.Tensor:
        r, n = self.event_shape
        rows = self.row_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return n * rows + r * self.col_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
