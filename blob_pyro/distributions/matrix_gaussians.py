"""Gaussians over matrices with correlated entries, and their KL from factorised ones."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch.distributions import Independent, Normal, register_kl
from torch.distributions.transforms import ReshapeTransform
from typing_extensions import override

from blob_pyro.distributions.located import Located, normal_entries


class MatrixGaussian(Located):
    """A Gaussian over matrices by its squared distances and determinant."""

    @abstractmethod
    def _squares(self, deviation: torch.Tensor) -> torch.Tensor:
        """Give the deviation's squared length in the metric of the precision, ``(...)``."""

    @abstractmethod
    def _half_log_det(self) -> torch.Tensor:
        """Give half of the log determinant of the covariance."""

    @override
    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log density, nats, shape ``(...)``."""
        if self._validate_args:
            self._validate_sample(value)
        constant = self.event_shape.numel() * math.log(2 * math.pi)
        return -0.5 * (self._squares(value - self.loc) + constant) - self._half_log_det()

    @override
    def entropy(self) -> torch.Tensor:
        """Differential entropy, nats, shape ``(...)``."""
        constant = self.event_shape.numel() * (1 + math.log(2 * math.pi))
        return (0.5 * constant + self._half_log_det()).expand(self.batch_shape)


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


@register_kl(KroneckerPrecisionNormal, Independent)
@register_kl(MatrixNormal, Independent)
@register_kl(MatrixShaped, Independent)
def kl_from_factorised_normal(
    posterior: KroneckerPrecisionNormal | MatrixNormal | MatrixShaped, prior: Independent[Normal]
) -> torch.Tensor:
    r"""KL divergence of a Gaussian over matrices from independent normal entries.

    .. math:: KL(q, p) = -H(q) + \frac{1}{2} \sum_{ij} \left[
        \frac{Var_q(A_{ij}) + (E_q A_{ij} - \mu_{ij})^2}{\sigma_{ij}^2}
        + \log 2 \pi \sigma_{ij}^2 \right]

    Correlations enter only through the entropy.  ``torch.distributions.kl_divergence`` finds this
    function, and so does the ELBO.

    Parameters
    ----------
    posterior
        :math:`q`, event shape ``(r, n)``.
    prior
        :math:`p`, independent normal entries of the same event shape; batch shapes are broadcast.

    Returns
    -------
    torch.Tensor
        Nats, one number for each member of the batch.

    Raises
    ------
    NotImplementedError
        If the prior is no matrix of independent normals; the ELBO then takes the log densities of
        a draw.

    Examples
    --------
    >>> from torch.distributions import kl_divergence
    >>> posterior = MatrixNormal(torch.zeros(2, 3), torch.eye(2), torch.eye(3))
    >>> prior = Independent(Normal(torch.zeros(2, 3), 1.0), 2)
    >>> abs(float(kl_divergence(posterior, prior))) < 1e-6
    True
    """
    base = normal_entries(prior, posterior.event_shape)
    squares = posterior.variance + (posterior.mean - base.loc).square()
    terms = squares / base.scale.square() + 2 * base.scale.log() + math.log(2 * math.pi)
    return 0.5 * terms.sum((-2, -1)) - posterior.entropy()
