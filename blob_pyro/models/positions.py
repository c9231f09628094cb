"""Which columns of a batch a network sees, at which positions, and which of them it scores."""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn

from blob_pyro.lora.projection import in_this_thread
from blob_pyro.models.padding import Side


def check_keeps_logits(net: PeftModel, way_out: str) -> None:
    """Refuse a network that cannot restrict its logits to some columns; say what to use."""
    base = net.get_base_model()
    if "logits_to_keep" not in inspect.signature(base.forward).parameters:
        raise ValueError(
            f"{type(base).__name__} has no argument logits_to_keep, so the logits of all positions "
            f"would be computed; use {way_out}"
        )


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


def last_real_columns(mask: torch.Tensor, side: Side | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the columns in which rows end, for ``logits_to_keep``, and which of them is each row's.

    Examples
    --------
    >>> last_real_columns(torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 1]]), "right")
    (tensor([0, 2]), tensor([1, 0, 1]))
    """
    columns = torch.arange(mask.shape[1], device=mask.device)
    if side != "right":
        return columns[-1:], torch.zeros_like(mask[:, 0], dtype=torch.int64)
    last = torch.where(mask != 0, columns, 0).amax(dim=1)
    kept, place = last.unique(return_inverse=True)
    return kept, place


@contextmanager
def head_at(head: nn.Module, rows: torch.Tensor, columns: torch.Tensor) -> Iterator[None]:
    """Make a head see the hidden states at given positions only.

    Parameters
    ----------
    head
        The module from hidden states, ``B x T x H``, to logits.
    rows, columns
        Indices of the positions, of any one shape, int64; the head's input gets that shape.

    Examples
    --------
    >>> head = nn.Linear(4, 9)
    >>> with head_at(head, torch.tensor([0, 1, 1]), torch.tensor([2, 0, 2])):
    ...     head(torch.zeros(2, 3, 4)).shape
    torch.Size([3, 9])
    """

    def select(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *others = args
        return (hidden[rows, columns], *others)

    with head.register_forward_pre_hook(in_this_thread(select)):
        yield


def labelled_first(labelled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give each row's labelled columns, padded to the most that a row has.

    Parameters
    ----------
    labelled
        ``B x T``, bool.

    Returns
    -------
    columns, real
        Both ``B x S``: the columns in their order, int64, and which of them are labelled.

    Examples
    --------
    >>> labelled_first(torch.tensor([[False, True, True], [False, False, True]]))
    (tensor([[1, 2],
            [2, 0]]), tensor([[ True,  True],
            [ True, False]]))
    """
    most = int(labelled.sum(1).max())
    order = labelled.long().argsort(dim=1, descending=True, stable=True)[:, :most]
    return order, labelled.gather(1, order)


class Positions:
    """Adds ``position_ids`` to a batch where the network needs them to skip padding.

    Parameters
    ----------
    net
        A PEFT model; one that takes no ``position_ids``, or skips padding itself with positions
        that do not start at 0, is left to it.
    """

    def __init__(self, net: PeftModel) -> None:
        signature = inspect.signature(net.get_base_model().forward).parameters
        self._taken = "position_ids" in signature and not _counts_positions(net)

    def add(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Give a batch with the positions of its real tokens, counted from 0."""
        if not self._taken or "position_ids" in batch:
            return batch
        positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return {**batch, "position_ids": positions}


def _counts_positions(net: PeftModel) -> bool:
    return any(hasattr(module, "create_position_ids_from_input_ids") for module in net.modules())


def shortest_window(network: nn.Module) -> int:
    """Give the fewest tokens that a layer may see at once, as far as the configuration says.

    Parameters
    ----------
    network
        A network of Transformers, with or without PEFT.

    Returns
    -------
    int
        ``sys.maxsize`` if the configuration names no window.

    Examples
    --------
    >>> from transformers import MistralConfig
    >>> network = nn.Module()
    >>> network.config = MistralConfig(sliding_window=12)
    >>> shortest_window(network)
    12
    """
    settings = cast(Any, network).config.get_text_config().to_dict()
    found = [
        length
        for name, value in settings.items()
        if any(part in name for part in ("window", "chunk", "local_attention"))
        for length in (value if isinstance(value, list | tuple) else [value])
        if type(length) is int and length > 0
    ]
    return min(found, default=sys.maxsize)
