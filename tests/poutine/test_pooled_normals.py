from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from blob_pyro.poutine.trace_kl import PooledNormals


def normal(*shape: int, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    loc, scale = torch.randn(shape, dtype=dtype), torch.rand(shape, dtype=dtype) + 0.1
    return dist.Normal(loc.requires_grad_(), scale.requires_grad_(), **options).to_event(len(shape))


def gradients(value: torch.Tensor, pairs: Any) -> list[torch.Tensor]:
    leaves = [t for pair in pairs for fn in pair for t in (fn.base_dist.loc, fn.base_dist.scale)]
    return list(torch.autograd.grad(value, leaves))


def test_the_pool_is_the_sum_of_the_sites_with_its_gradients() -> None:
    shapes = [(2, 3), (5, 1), (4,)]
    pairs = [(normal(*shape), normal(*shape)) for shape in shapes]
    pool = PooledNormals()
    assert all(pool.take(q, p) for q, p in pairs)
    (found,) = pool.kl()
    expected = torch.stack([kl_divergence(q, p) for q, p in pairs]).sum()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for left, right in zip(gradients(found, pairs), gradients(expected, pairs), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_dtypes_do_not_mix() -> None:
    pool = PooledNormals()
    for dtype in (torch.float32, torch.float64):
        assert pool.take(normal(2, 3, dtype=dtype), normal(2, 3, dtype=dtype))
    assert [term.dtype for term in pool.kl()] == [torch.float32, torch.float64]


@pytest.mark.parametrize(
    "pair",
    [
        (normal(2, 3), dist.Laplace(torch.zeros(2, 3), 1.0).to_event(2)),
        (normal(2, 3).expand([4]), normal(2, 3).expand([4])),
        (dist.Normal(0.0, 1.0), dist.Normal(0.0, 1.0)),
        (normal(2, 3), normal(6)),
    ],
    ids=["another family", "a batch", "no event", "another shape"],
)
def test_what_cannot_stand_in_one_vector_is_left(pair: Any) -> None:
    pool = PooledNormals()
    assert not pool.take(*pair)
    assert pool.kl() == []
