"""The lazily factorised Gaussian, against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributions import LowRankMultivariateNormal

from blob_pyro.distributions import LowRankNormal

D, K = 6, 2


def make(batch: tuple[int, ...] = ()) -> tuple[LowRankNormal, LowRankMultivariateNormal]:
    loc, factor = torch.randn(*batch, D).double(), torch.randn(D, K).double()
    scale = torch.rand(D).double() + 0.2
    return LowRankNormal(loc, factor, scale), LowRankMultivariateNormal(loc, factor, scale**2)


@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
def test_it_is_torchs(batch: tuple[int, ...]) -> None:
    q, dense = make(batch)
    value = torch.randn(5, *batch, D).double()
    torch.testing.assert_close(q.log_prob(value), dense.log_prob(value))
    torch.testing.assert_close(q.variance, dense.variance)
    torch.testing.assert_close(q.mean, dense.mean)
    expanded = q.expand((4, *batch))
    assert expanded.rsample().shape == (4, *batch, D)
    torch.testing.assert_close(expanded.log_prob(value[:4]), dense.log_prob(value[:4]))


def test_draws_have_its_covariance(z_score: Any) -> None:
    # 6 + 36 means of 4000 draws within 4.5 standard errors: fails 1 seed in 3000.
    q, dense = make()
    deviation = q.rsample((4000,)) - q.mean
    assert z_score(deviation, 0.0) < 4.5
    products = deviation[:, :, None] * deviation[:, None, :]
    assert z_score(products, dense.covariance_matrix) < 4.5
    assert z_score(products, torch.diag(dense.variance)) > 4.5


def test_over_many_entries_its_float32_density_is_right() -> None:
    # A hundred thousand entries that two nearly equal factors move.
    size = 100_000
    loc, scale = torch.zeros(size), torch.full((size,), 0.01)
    factor = 1 + 1e-4 * torch.randn(size, 2)
    q = LowRankNormal(loc, factor, scale)
    draw = q.sample()
    wide = LowRankMultivariateNormal(loc.double(), factor.double(), scale.double() ** 2)
    expected = wide.log_prob(draw.double())
    assert q.log_prob(draw).dtype == torch.float32
    torch.testing.assert_close(q.log_prob(draw).double(), expected, atol=0, rtol=1e-6)


def test_without_spread_it_is_a_point() -> None:
    q = LowRankNormal(torch.ones(D), torch.zeros(D, K), torch.zeros(D))
    assert torch.equal(q.sample((2,)), torch.ones(2, D))
