"""Which positions of a row the vocabulary's logits are computed for."""

from __future__ import annotations

import torch


def last_columns(input_ids: torch.Tensor, count: int) -> torch.Tensor:
    """Give the indices of a batch's last columns, for ``logits_to_keep``.

    Transformers copies the hidden states at given indices, so that the head is one product; for a
    number it takes a view, which PyTorch multiplies row by row with a head expanded for each.

    Parameters
    ----------
    input_ids
        ``B x T``, of which only the width and the device matter.
    count
        How many columns, from 1 to T.

    Returns
    -------
    torch.Tensor
        ``count`` indices, int64.

    Examples
    --------
    >>> last_columns(torch.zeros(2, 5), 3)
    tensor([2, 3, 4])
    """
    width = input_ids.shape[1]
    return torch.arange(width - count, width, device=input_ids.device)
