"""Rows of different lengths as one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def padded(
    rows: Sequence[list[int]], value: int, *, on_left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make one tensor of rows of different lengths.

    Parameters
    ----------
    rows
        At least one list of whole numbers.
    value
        What fills the shorter ones.
    on_left
        Where it goes.

    Returns
    -------
    values, mask
        Both ``rows x longest``, int64; the mask is 1 where a value is real.

    Examples
    --------
    >>> padded([[5, 6], [7]], 0)[0]
    tensor([[5, 6],
            [7, 0]])
    """
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), value)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if on_left else slice(len(row))
        ids[index, place] = torch.tensor(row)
        mask[index, place] = 1
    return ids, mask
