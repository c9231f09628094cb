from __future__ import annotations

from typing import Any

import pytest
import torch

from blob_pyro.models.padding import align_padding

TEXTS = [[5, 6, 7, 8], [9, 8], [], [4]]
LENGTH = 4


def padded(offsets: list[int]) -> dict[str, torch.Tensor]:
    """Put each text at its offset among zeros."""
    ids, mask = torch.zeros(4, LENGTH, dtype=torch.int64), torch.zeros(4, LENGTH, dtype=torch.int64)
    for row, (text, offset) in enumerate(zip(TEXTS, offsets, strict=True)):
        ids[row, offset : offset + len(text)] = torch.tensor(text, dtype=torch.int64)
        mask[row, offset : offset + len(text)] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": 10 * ids}


LEFT, RIGHT = padded([0, 2, 4, 3]), padded([0, 0, 0, 0])


@pytest.mark.parametrize("offsets", [[0, 0, 0, 0], [0, 2, 4, 3], [0, 1, 2, 2]])
@pytest.mark.parametrize(("side", "expected"), [("left", LEFT), ("right", RIGHT)])
def test_padding_moves_to_the_side(side: Any, expected: Any, offsets: list[int]) -> None:
    aligned = align_padding(padded(offsets), side)
    assert list(aligned) == list(expected)
    assert all(torch.equal(aligned[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("real", "dtype"), [(1, torch.bool), (1, torch.float32), (2, torch.int64), (-1, torch.int32)]
)
def test_nonzero_means_real_in_any_dtype(real: int, dtype: torch.dtype) -> None:
    batch = padded([0, 1, 2, 2])
    batch["attention_mask"] = (real * batch["attention_mask"]).to(dtype)
    aligned = align_padding(batch, "left")
    assert torch.equal(aligned["input_ids"], LEFT["input_ids"])
    assert torch.equal(aligned["attention_mask"], (real * LEFT["attention_mask"]).to(dtype))


def test_tensors_of_another_shape_pass_through() -> None:
    labels = torch.arange(4)
    assert align_padding({**LEFT, "labels": labels}, "right")["labels"] is labels
