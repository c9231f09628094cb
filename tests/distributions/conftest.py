"""Matrix distributions and the dense Gaussians that they have to equal."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import MultivariateNormal

from blob_pyro.distributions import KroneckerPrecisionNormal, MatrixNormal, MatrixShaped

R, N = 3, 4
KINDS = ["matrix normal", "full", "low rank", "kronecker precision", "its low rank"]


def tril(*shape: int) -> torch.Tensor:
    """Make a lower triangular matrix with a diagonal between 0.5 and 1.5."""
    factor = torch.randn(*shape, shape[-1], dtype=torch.float64).tril(-1)
    return factor + torch.rand(*shape, dtype=torch.float64).add(0.5).diag_embed()


def make_kronecker_precision(
    loc: torch.Tensor, rank: int
) -> tuple[KroneckerPrecisionNormal, MultivariateNormal]:
    """Make one of which ``rank`` directions of the columns are known, and two of the rows."""
    rows, columns = (
        torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q[:, :kept]
        for size, kept in ((R, R if rank == N else 2), (N, rank))
    )
    g, h = torch.rand(rows.shape[1]).double() * 3, torch.rand(rank).double() * 9
    curvature = torch.kron(rows @ g.diag() @ rows.mT, columns @ h.diag() @ columns.mT)
    precision = curvature + 1.7 * torch.eye(R * N, dtype=torch.float64)
    found = KroneckerPrecisionNormal(loc, rows, g, columns, h, 1.7)
    return found, MultivariateNormal(loc.flatten(-2), precision_matrix=precision)


def make_gaussian(kind: str, batch: tuple[int, ...] = ()) -> tuple[Any, MultivariateNormal]:
    """Make a distribution in float64, and the dense Gaussian over its entries, row after row."""
    loc = torch.randn(*batch, R, N, dtype=torch.float64)
    if kind == "matrix normal":
        rows, columns = tril(*batch, R), tril(*batch, N)
        # Written out, entry by entry: Cov(A_ij, A_kl) = U_ik V_jl.
        U, V = rows @ rows.mT, columns @ columns.mT
        covariance = torch.einsum("...ik,...jl->...ijkl", U, V).flatten(-4, -3).flatten(-2)
        return MatrixNormal(loc, rows, columns), MultivariateNormal(loc.flatten(-2), covariance)
    if kind in ("kronecker precision", "its low rank"):
        return make_kronecker_precision(loc, N if kind == "kronecker precision" else 1)
    if kind == "full":
        factor = tril(*batch, R * N)
        base: Any = dist.MultivariateNormal(loc.flatten(-2), scale_tril=factor)
        covariance = factor @ factor.mT
    else:
        factors = torch.randn(*batch, R * N, 2, dtype=torch.float64)
        diagonal = torch.rand(*batch, R * N, dtype=torch.float64) + 0.5
        base = dist.LowRankMultivariateNormal(loc.flatten(-2), factors, diagonal)
        covariance = factors @ factors.mT + diagonal.diag_embed()
    return MatrixShaped(base, (R, N)), MultivariateNormal(loc.flatten(-2), covariance)


@pytest.fixture
def gaussian() -> Any:
    """Give the maker of a distribution and its dense Gaussian."""
    return make_gaussian


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Name of every family."""
    return request.param
