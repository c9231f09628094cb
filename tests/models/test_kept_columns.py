from __future__ import annotations

import pytest
import torch

from blob_pyro.models.positions import last_columns
from blob_pyro.testing import tiny_batch, tiny_network


@pytest.mark.parametrize("count", [1, 3, 6])
def test_the_network_gives_the_logits_of_the_last_columns(count: int) -> None:
    net = tiny_network("llama").eval()
    input_ids = tiny_batch()["input_ids"]
    with torch.no_grad():
        expected = net(input_ids=input_ids).logits[:, -count:]
        found = net(input_ids=input_ids, logits_to_keep=last_columns(input_ids, count)).logits
    torch.testing.assert_close(found, expected)
