"""Moving padding to the side that an architecture needs."""

from __future__ import annotations

from typing import Literal

import torch

Side = Literal["left", "right"]


def align_padding(batch: dict[str, torch.Tensor], side: Side) -> dict[str, torch.Tensor]:
    """Rotate each row so that its padding lies on one side.

    Parameters
    ----------
    batch
        Tensors by name, among them ``attention_mask`` (``B x T``, nonzero where a token is real,
        the real tokens of a row contiguous).  Every tensor of that shape is rotated alike.
    side
        Where the padding shall be.

    Returns
    -------
    dict
        The same names; tensors of other shapes are passed through.

    Examples
    --------
    >>> mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    >>> align_padding({"input_ids": torch.tensor([[5, 6, 0], [0, 7, 8]]),
    ...                "attention_mask": mask}, "left")["input_ids"]
    tensor([[0, 5, 6],
            [0, 7, 8]])
    """
    mask = batch["attention_mask"]
    length = mask.shape[1]
    positions = torch.arange(length, device=mask.device)
    real = mask != 0
    if side == "right":
        shift = torch.where(real, positions, length).amin(dim=1)
    else:
        shift = torch.where(real, positions, -1).amax(dim=1) + 1
    source = (positions + shift[:, None]) % length
    return {
        name: tensor.gather(1, source) if tensor.shape == mask.shape else tensor
        for name, tensor in batch.items()
    }
