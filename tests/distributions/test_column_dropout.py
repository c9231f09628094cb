from __future__ import annotations

from itertools import product

import pytest
import torch

from blob_pyro.distributions import ColumnDropout

WEIGHT = torch.tensor([[1.0, -2.0, 0.5], [3.0, 1.0, 2.0]], dtype=torch.float64)


@pytest.mark.parametrize("rate", [0.25, 0.6])
def test_probabilities_and_moments_are_those_of_all_masks(rate: float) -> None:
    law = ColumnDropout(WEIGHT, rate)
    masks = torch.tensor(list(product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    values = WEIGHT * masks[:, None] / (1 - rate)
    p = (rate ** (1 - masks) * (1 - rate) ** masks).prod(dim=-1)
    torch.testing.assert_close(law.log_prob(values).exp(), p)
    torch.testing.assert_close((p[:, None, None] * values).sum(0), law.mean)
    variance = (p[:, None, None] * (values - WEIGHT).square()).sum(0)
    torch.testing.assert_close(variance, law.variance)
    assert law.log_prob(WEIGHT) == -torch.inf


def test_draws_have_the_frequencies_of_the_rate() -> None:
    # 3 columns within 4 standard errors: fails 1 seed in 5000.
    draws = ColumnDropout(WEIGHT, 0.25).expand((20,)).sample((200,))
    assert draws.shape == (200, 20, 2, 3)
    dropped = (draws == 0).all(dim=-2).double().reshape(-1, 3)
    assert ((dropped.mean(0) - 0.25).abs() / (0.25 * 0.75 / 4000) ** 0.5).max() < 4
