from __future__ import annotations

import pytest
import torch

from blob_pyro.posthoc.laplace import SecondMoment


def gathered(batches: list[torch.Tensor], max_rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    moment = SecondMoment(batches[0].shape[1], max_rank)
    for batch in batches:
        moment.add(batch)
    return moment.eigenpairs()


def vectors(count: int, rank: int) -> list[torch.Tensor]:
    """Batches of 7, 1, 0 and more vectors in twelve dimensions that span ``rank`` of them."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(rank, 12, generator=generator, dtype=torch.float64)
    rows = torch.randn(count, rank, generator=generator, dtype=torch.float64) @ mixing
    return list(rows.split([7, 1, 0, count - 8]))


@pytest.mark.parametrize("max_rank", [4, 12, 50])
@pytest.mark.parametrize("count", [11, 40])
def test_it_is_the_sum_where_the_vectors_span_no_more(max_rank: int, count: int) -> None:
    batches = vectors(count, rank=4)
    basis, values = gathered(batches, max_rank)
    rows = torch.cat(batches)
    assert basis.shape == (12, min(12, max_rank))
    torch.testing.assert_close(basis @ values.diag() @ basis.mT, rows.mT @ rows)
    one = torch.eye(len(values), dtype=torch.float64)
    torch.testing.assert_close(basis.mT @ basis, one)
    assert (values.diff() <= 1e-9).all()


def test_the_leading_directions_of_one_batch_are_those_of_the_best_approximation() -> None:
    rows = torch.cat(vectors(40, rank=12))
    basis, values = gathered([rows], 3)
    exact_values, exact_basis = torch.linalg.eigh(rows.mT @ rows)
    torch.testing.assert_close(values, exact_values.flip(0)[:3])
    overlap = (exact_basis[:, -3:].mT @ basis).square().sum()
    torch.testing.assert_close(overlap, torch.tensor(3.0, dtype=torch.float64))


def test_what_is_cut_off_between_batches_makes_it_too_small_but_little_if_values_fall() -> None:
    generator = torch.Generator().manual_seed(0)
    falling = 0.5 ** torch.arange(12, dtype=torch.float64)
    rows = torch.randn(400, 12, generator=generator, dtype=torch.float64) * falling
    _, values = gathered(list(rows.split(20)), 6)
    exact = torch.linalg.eigvalsh(rows.mT @ rows).flip(0)[:6]
    assert (values <= exact * (1 + 1e-9)).all()
    assert (values[:3] > 0.999 * exact[:3]).all()


def test_without_vectors_it_is_zero_with_a_basis() -> None:
    basis, values = SecondMoment(5, 3).eigenpairs()
    assert torch.equal(values, torch.zeros(3))
    torch.testing.assert_close(basis.mT @ basis, torch.eye(3))
