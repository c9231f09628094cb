from __future__ import annotations

from itertools import islice

import pytest
import torch

from blob_pyro.infer.batches import again_and_again


def test_they_come_again() -> None:
    batches = [{"x": torch.tensor(i)} for i in range(3)]
    found = [int(batch["x"]) for batch in islice(again_and_again(batches), 7)]
    assert found == [0, 1, 2, 0, 1, 2, 0]


def test_no_batch_is_an_error_and_no_endless_loop() -> None:
    with pytest.raises(ValueError, match="no batch to go on with; give the training data"):
        next(again_and_again([]))
