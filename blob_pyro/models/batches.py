"""What a batch may hold, and a batch once for each of several draws."""

from collections.abc import Mapping
from typing import Any

import torch

Batch = dict[str, torch.Tensor]

# Inputs that every network of texts takes, whose rows are examples.
_OF_TEXTS = {
    "input_ids", "attention_mask", "position_ids", "token_type_ids", "labels", "option_ids",
    "num_options",
}  # fmt: skip


def other_inputs(batch: Mapping[str, Any]) -> frozenset[str]:
    """Name what a batch has beside texts, such as pictures; axis 0 need not be that of examples.

    Examples
    --------
    >>> sorted(other_inputs({"input_ids": 0, "pixel_values": 0, "image_grid_thw": 0}))
    ['image_grid_thw', 'pixel_values']
    """
    return frozenset(batch) - _OF_TEXTS


def check_inputs(batch: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` if an input is no tensor, or positions are not one a token."""
    for name, value in batch.items():
        if not isinstance(value, torch.Tensor) or value.dim() == 0:
            raise ValueError(
                f"{name} is {value!r:.80}, but a tensor with rows is needed; pass the tensors of "
                "the tokenizer or processor (return_tensors='pt'), and leave options out"
            )
    positions = batch.get("position_ids")
    if positions is not None and positions.shape != batch["input_ids"].shape:
        raise ValueError(
            f"position_ids has the shape {tuple(positions.shape)} but input_ids has "
            f"{tuple(batch['input_ids'].shape)}; leave position_ids out, and the network counts"
        )


def tile(batch: Batch, num_draws: int) -> Batch:
    """Repeat a batch, draw after draw.

    Parameters
    ----------
    batch
        Tensors by name, each of B rows, or with the pictures of one example after those of the
        other.
    num_draws
        Number of draws K.

    Returns
    -------
    dict
        Tensors of K times the rows.

    Examples
    --------
    >>> tile({"input_ids": torch.tensor([[5], [6]])}, 2)["input_ids"].flatten()
    tensor([5, 6, 5, 6])
    """
    if num_draws == 1:
        return batch
    return {
        name: tensor.repeat(num_draws, *[1] * (tensor.dim() - 1)) for name, tensor in batch.items()
    }


def untile(logits: torch.Tensor, num_draws: int) -> torch.Tensor:
    """Give each of several draws a dimension of its own, and go up to float32.

    Parameters
    ----------
    logits
        ``(K * rows) x V``, floating; the log probabilities of half-precision logits would not be
        exact enough.
    num_draws
        Number of draws K.

    Returns
    -------
    torch.Tensor
        ``rows x V`` for one draw, else ``K x rows x V``; float32 or wider.

    Examples
    --------
    >>> untile(torch.zeros(6, 4, dtype=torch.bfloat16), 3).shape
    torch.Size([3, 2, 4])
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if num_draws == 1:
        return logits
    return logits.reshape(num_draws, -1, logits.shape[-1])


def checked_labels(labels: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Give labels as int64, or refuse what would be broadcast or rounded.

    Parameters
    ----------
    labels
        Integers of any width.
    shape
        The only shape that they may have.

    Raises
    ------
    ValueError
        If they are no tensor of integers, or have another shape.

    Examples
    --------
    >>> checked_labels(torch.tensor([0, 2], dtype=torch.uint8), torch.Size([2]))
    tensor([0, 2])
    """
    if not isinstance(labels, torch.Tensor) or not _holds_integers(labels.dtype):
        found = getattr(labels, "dtype", type(labels).__name__)
        raise ValueError(
            f"labels are {found}, but a tensor of integers (torch.int64) is needed; pass "
            "class indices or token ids, no probabilities"
        )
    if labels.shape != shape:
        raise ValueError(
            f"labels have the shape {tuple(labels.shape)} but this batch needs {tuple(shape)}: "
            "an integer for each example (CausalLM: for each token)"
        )
    return labels.long()


def _holds_integers(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
