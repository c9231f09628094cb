"""Running a language model's head at the positions that are needed, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


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

    hook = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()


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
