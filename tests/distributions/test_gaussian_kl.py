from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from blob_pyro.distributions import kl_from_factorised_normal
from blob_pyro.poutine import analytic_kl


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
