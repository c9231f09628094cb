"""Every distribution over matrices against the dense Gaussian over its entries."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from blob_pyro.distributions import (
    KroneckerPrecisionNormal,
    MatrixNormal,
    kl_from_factorised_normal,
)
from blob_pyro.poutine import analytic_kl

_FACTORS = ("row_basis", "row_values", "col_basis", "col_values")
BATCHES: list[tuple[int, ...]] = [(), (5,), (2, 1)]


@pytest.fixture(params=BATCHES, ids=str)
def batch(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return request.param


def test_density_entropy_and_moments_are_those_of_the_dense_gaussian(
    kind: str, batch: tuple[int, ...], gaussian: Any
) -> None:
    found, dense = gaussian(kind, batch)
    value = torch.randn(*batch, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(found.log_prob(value), dense.log_prob(value.flatten(-2)))
    torch.testing.assert_close(found.entropy(), dense.entropy())
    torch.testing.assert_close(found.mean.flatten(-2), dense.mean)
    torch.testing.assert_close(found.variance.flatten(-2), dense.variance)
    torch.testing.assert_close(found.stddev.square(), found.variance)


def test_a_batch_of_draws_has_a_density_each(kind: str, gaussian: Any) -> None:
    found, dense = gaussian(kind, (2, 1))
    draws = found.rsample((7,))
    assert draws.shape == (7, 2, 1, 3, 4)
    torch.testing.assert_close(found.log_prob(draws), dense.log_prob(draws.flatten(-2)))


def test_draws_have_the_dense_gaussians_moments(kind: str, gaussian: Any, z_score: Any) -> None:
    # 12 means and 144 products of deviations from 4000 draws within 5 standard errors: fails less
    # than 1 seed in 5000.
    found, dense = gaussian(kind)
    deviations = found.sample((4000,)).flatten(1) - dense.mean
    products = deviations[:, :, None] * deviations[:, None, :]
    assert z_score(deviations, 0.0) < 5
    assert z_score(products, dense.covariance_matrix) < 5
    # It would see rows and columns exchanged.
    exchanged = dense.covariance_matrix.reshape(3, 4, 3, 4).permute(1, 0, 3, 2).reshape(12, 12)
    assert z_score(products, exchanged) > 5


def test_gradients_flow_through_draws_to_every_parameter(kind: str, gaussian: Any) -> None:
    found, _ = gaussian(kind)
    base = getattr(found, "base_dist", found)
    names = {
        "matrix normal": ("loc", "row_tril", "col_tril"),
        "full": ("loc", "_unbroadcasted_scale_tril"),
        "low rank": ("loc", "_unbroadcasted_cov_factor", "_unbroadcasted_cov_diag"),
        "kronecker precision": ("loc", *_FACTORS),
        "its low rank": ("loc", *_FACTORS),
    }[kind]
    for name in names:
        setattr(base, name, getattr(base, name).clone().requires_grad_())
    assert found.has_rsample
    found.rsample().square().sum().backward()
    assert all(getattr(base, name).grad.abs().sum() > 0 for name in names)


def test_expanded_it_is_the_same_for_each_member(kind: str, gaussian: Any) -> None:
    found, _ = gaussian(kind)
    expanded = found.expand((6, 1))
    assert type(expanded) is type(found)
    assert expanded.batch_shape == (6, 1)
    assert expanded.event_shape == (3, 4)
    assert expanded.expand((6, 2)).batch_shape == (6, 2)
    draws = expanded.rsample()
    assert draws.shape == (6, 1, 3, 4)
    assert not torch.equal(draws[0], draws[1])
    torch.testing.assert_close(expanded.log_prob(draws), found.log_prob(draws))
    for name in ("mean", "variance"):
        value = getattr(found, name)
        torch.testing.assert_close(getattr(expanded, name), value.expand(6, 1, 3, 4))
    torch.testing.assert_close(expanded.entropy(), found.entropy().expand(6, 1))


def test_a_plate_expands_it(kind: str, gaussian: Any) -> None:
    found, _ = gaussian(kind)
    with pyro.plate("draws", 5, dim=-2):
        assert pyro.sample("A", found).shape == (5, 1, 3, 4)


def test_the_factors_of_a_matrix_normal_may_lack_its_batch() -> None:
    eye = torch.eye(2), torch.eye(3)
    assert MatrixNormal(torch.zeros(5, 2, 3), *eye).sample().shape == (5, 2, 3)
    batched = MatrixNormal(torch.zeros(2, 3), eye[0].expand(4, 1, 2, 2), eye[1].expand(6, 3, 3))
    assert batched.batch_shape == batched.entropy().shape == batched.expand((4, 6)).batch_shape
    assert batched.variance.shape == batched.rsample().shape == (4, 6, 2, 3)


def test_the_root_of_the_covariance_is_its_root(gaussian: Any) -> None:
    for kind in ("kronecker precision", "its low rank"):
        found, dense = gaussian(kind)
        unit = torch.eye(12, dtype=torch.float64).reshape(12, 3, 4)
        root = found.scaled(unit).flatten(1)
        torch.testing.assert_close(root @ root, dense.covariance_matrix)
        torch.testing.assert_close(root, root.mT)


def test_the_root_takes_another_dtype_than_its_own() -> None:
    bases = torch.eye(3)[:, :2].bfloat16(), torch.eye(4)[:, :1].bfloat16()
    values = torch.tensor([3.0, 8.0]).bfloat16(), torch.ones(1).bfloat16()
    q = KroneckerPrecisionNormal(
        torch.zeros(3, 4).bfloat16(), bases[0], values[0], bases[1], values[1], 1.0
    )
    root = q.scaled(torch.ones(3, 4))
    assert root.dtype == torch.float32
    expected = torch.ones(3, 4)
    expected[:2, 0] = torch.tensor([1 / 2, 1 / 3])
    torch.testing.assert_close(root, expected, atol=1e-2, rtol=0)


def test_variances_are_not_negative_by_rounding() -> None:
    # Directions of which nothing lies outside the basis, as an LLM's few huge activations are.
    for _ in range(20):
        basis = torch.zeros(60, 10)
        basis[:10] = torch.linalg.qr(torch.randn(10, 10)).Q
        rows, columns = torch.full((4,), 1e3), torch.full((10,), 1e6)
        q = KroneckerPrecisionNormal(torch.zeros(4, 60), torch.eye(4), rows, basis, columns, 1.0)
        assert q.variance.min() > 0
        torch.testing.assert_close(q.variance[:, 10:], torch.ones(4, 50))


def test_parameters_and_values_are_validated() -> None:
    with pytest.raises(ValueError, match="row_tril"):
        MatrixNormal(torch.zeros(2, 3), -torch.eye(2), torch.eye(3), validate_args=True)
    valid = MatrixNormal(torch.zeros(2, 3), torch.eye(2), torch.eye(3), validate_args=True)
    with pytest.raises(ValueError, match="event_shape"):
        valid.log_prob(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="support"):
        valid.expand((2,)).log_prob(torch.full((2, 3), torch.nan))


def prior(*batch: int) -> tuple[Any, MultivariateNormal]:
    """Make independent normals whose means and scales all differ, and the same as one Gaussian."""
    loc = torch.randn(*batch, 3, 4, dtype=torch.float64)
    scale = torch.rand(*batch, 3, 4, dtype=torch.float64) + 0.3
    dense = MultivariateNormal(loc.flatten(-2), scale.flatten(-2).square().diag_embed())
    return dist.Normal(loc, scale).to_event(2), dense


@pytest.mark.parametrize("batch", [(), (5,), (2, 1)], ids=str)
def test_it_is_that_of_the_dense_gaussians(
    kind: str, batch: tuple[int, ...], gaussian: Any
) -> None:
    (q, dense_q), (p, dense_p) = gaussian(kind, batch), prior(*batch)
    expected = kl_divergence(dense_q, dense_p)
    assert kl_divergence(q, p).shape == batch
    torch.testing.assert_close(kl_divergence(q, p), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("batches", [((6, 1), ()), ((), (6, 1)), ((6, 1), (2,))], ids=str)
def test_batches_are_broadcast(kind: str, batches: Any, gaussian: Any) -> None:
    (q, dense_q), (p, dense_p) = gaussian(kind, batches[0]), prior(*batches[1])
    shape = torch.broadcast_shapes(*batches)
    expected = kl_divergence(dense_q.expand(shape), dense_p.expand(shape))
    torch.testing.assert_close(kl_divergence(q, p), expected, atol=1e-9, rtol=0)


def test_expanded_by_a_plate_it_is_the_same_for_each_draw(kind: str, gaussian: Any) -> None:
    (q, _), (p, _) = gaussian(kind), prior()
    expected = kl_divergence(q, p).expand(5, 1)
    torch.testing.assert_close(kl_divergence(q.expand((5, 1)), p.expand((5, 1))), expected)


def test_it_is_the_mean_of_the_densities(kind: str, gaussian: Any, z_score: Any) -> None:
    # One mean of 4000 draws within 4.5 standard errors: fails 1 seed in 10^5.  The direction shows.
    (q, _), (p, _) = gaussian(kind), prior()
    draws = q.sample((4000,))
    difference = (q.log_prob(draws) - p.log_prob(draws))[:, None]
    assert z_score(difference, kl_divergence(q, p)) < 4.5


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (dist.Laplace(torch.zeros(3, 4), 1.0).to_event(2), r"no closed form from Laplace"),
        (dist.Normal(torch.zeros(3, 4), 1.0).to_event(1), r"event shape \(4,\); give Normal"),
    ],
)
def test_another_prior_is_left_to_a_draw(
    kind: str, other: Any, message: str, gaussian: Any
) -> None:
    q, _ = gaussian(kind)
    with pytest.raises(NotImplementedError, match=message):
        kl_divergence(q, other)
    with pytest.raises(NotImplementedError, match=message):
        kl_from_factorised_normal(q, other)
    site: dict[str, Any] = {"scale": 1.0, "mask": None}
    assert analytic_kl({**site, "fn": q}, {**site, "fn": other}) is None
