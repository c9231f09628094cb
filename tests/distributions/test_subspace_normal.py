"""The Gaussian on a subspace, against the dense Gaussian of its covariance and brute force."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from blob_pyro.distributions import SubspaceNormal
from blob_pyro.poutine import analytic_kl

R, N, K = 4, 5, 3


def make(batch: tuple[int, ...] = (), **options: Any) -> tuple[SubspaceNormal, torch.Tensor]:
    """Make a distribution in float64, and its directions as vectors, ``k x (r n)``."""
    left = torch.linalg.qr(torch.randn(R, R, dtype=torch.float64)).Q[:, :K]
    # Unit rows, not orthogonal to each other: the left side makes the directions so.
    right = torch.nn.functional.normalize(torch.randn(K, N, dtype=torch.float64), dim=-1)
    loc = torch.randn(*batch, R, N, dtype=torch.float64)
    scale = torch.rand(*batch, K, dtype=torch.float64) + 0.3
    directions = torch.stack([torch.outer(left[:, i], right[i]).flatten() for i in range(K)])
    return SubspaceNormal(loc, left, scale, right, **options), directions


@pytest.mark.parametrize("batch", [(), (3,), (2, 1)], ids=str)
def test_moments(batch: tuple[int, ...]) -> None:
    q, directions = make(batch)
    assert (q.batch_shape, q.event_shape) == (batch, (R, N))
    covariance = torch.einsum("...k,ki,kj->...ij", q.scale**2, directions, directions)
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(q.variance.flatten(-2), variance)
    torch.testing.assert_close(q.coordinates.mean, q.mean.flatten(-2) @ directions.T)
    expanded = q.expand((7, *batch))
    assert expanded.rsample().shape == (7, *batch, R, N)
    torch.testing.assert_close(expanded.variance, q.variance.expand(7, *batch, R, N))


def test_draws(z_score: Any) -> None:
    # 20 + 20 + 3 means of 4000 draws within 4.5 standard errors: fails 1 seed in 3000.
    q, directions = make()
    deviation = (q.rsample((4000,)) - q.mean).flatten(-2)
    assert z_score(deviation, 0.0) < 4.5
    assert z_score(deviation.square(), q.variance.flatten()) < 4.5
    assert z_score((deviation @ directions.T).square(), q.scale.square()) < 4.5
    # Nothing leaves the subspace.
    torch.testing.assert_close(deviation @ directions.T @ directions, deviation)


@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
@pytest.mark.parametrize("expanded", [True, False])
def test_kl_is_that_of_the_coordinates_from_the_prior_along_the_subspace(
    batch: tuple[int, ...], expanded: bool
) -> None:
    q, directions = make(batch)
    mu = torch.randn(R, N, dtype=torch.float64)
    sigma = torch.tensor(0.4, dtype=torch.float64).expand(R, N)
    prior = dist.Normal(mu, sigma if expanded else sigma.clone()).to_event(2)
    along = Normal(directions @ mu.flatten(), 0.4)
    # The prior's density along the subspace is that of these coordinates, up to a constant.
    moved = q.rsample((6,))
    coordinates = moved.flatten(-2) @ directions.T
    difference = prior.log_prob(moved) - along.log_prob(coordinates).sum(-1)
    torch.testing.assert_close(difference, difference[:1].expand_as(difference))
    posterior = Normal(q.mean.flatten(-2) @ directions.T, q.scale)
    expected = kl_divergence(posterior, along).sum(-1)
    torch.testing.assert_close(kl_divergence(q, prior), expected)
    both = kl_divergence(q.expand((2, *batch)), prior.expand((2, *batch)))
    torch.testing.assert_close(both, expected.expand(2, *batch))


def test_kl_is_that_of_the_full_gaussian_that_is_the_prior_off_the_subspace() -> None:
    q, directions = make()
    q = SubspaceNormal(torch.zeros_like(q.loc), q.left, q.scale, q.right)
    identity = torch.eye(R * N, dtype=torch.float64)
    off = identity - directions.T @ directions
    covariance = directions.T @ torch.diag(q.scale**2) @ directions + 0.4**2 * off
    full = MultivariateNormal(torch.zeros(R * N, dtype=torch.float64), covariance)
    prior = MultivariateNormal(torch.zeros(R * N, dtype=torch.float64), 0.4**2 * identity)
    ours = kl_divergence(q, dist.Normal(torch.zeros_like(q.loc), 0.4).to_event(2))
    torch.testing.assert_close(ours, kl_divergence(full, prior))
    assert abs(ours - kl_divergence(prior, full)) > 0.1


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (dist.Laplace(torch.zeros(R, N), 1.0).to_event(2), r"no closed form from Laplace"),
        (dist.Normal(torch.zeros(R, N), 1.0).to_event(1), r"event shape \(5,\); give Normal"),
        (
            dist.Normal(torch.zeros(R, N), torch.linspace(0.1, 1, N)).to_event(2),
            "several scales in one site.*give one scale a site",
        ),
    ],
)
def test_other_priors_are_refused(other: Any, message: str) -> None:
    q, _ = make()
    with pytest.raises(NotImplementedError, match=message):
        kl_divergence(q, other)
    site: dict[str, Any] = {"scale": 1.0, "mask": None}
    assert analytic_kl({**site, "fn": q}, {**site, "fn": other}) is None


def test_there_is_no_density() -> None:
    q, _ = make()
    with pytest.raises(NotImplementedError, match="no density over matrices"):
        q.log_prob(q.mean)


def test_shapes_and_directions_are_checked() -> None:
    q, _ = make()
    with pytest.raises(ValueError, match=r"left has shape \(4, 2\).*need \(\.\.\., 4, 3\)"):
        SubspaceNormal(q.loc, q.left[:, :2], q.scale, q.right)
    with pytest.raises(ValueError, match=r"not orthonormal: .*differ from the identity by 3"):
        SubspaceNormal(q.loc, q.left, q.scale, 2 * q.right, validate_args=True)
    assert isinstance(
        SubspaceNormal(q.loc, q.left, q.scale, 2 * q.right, False).coordinates, Normal
    )
