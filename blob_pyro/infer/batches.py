"""Batches without end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch

Batch = Mapping[str, torch.Tensor]


def again_and_again(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Go through batches, from the start again when they end.

    Raises
    ------
    ValueError
        If there is none.

    Examples
    --------
    >>> from itertools import islice
    >>> batches = [{"x": torch.tensor(1)}, {"x": torch.tensor(2)}]
    >>> [int(batch["x"]) for batch in islice(again_and_again(batches), 5)]
    [1, 2, 1, 2, 1]
    """
    is_empty = True
    while True:
        for batch in batches:
            is_empty = False
            yield batch
        if is_empty:
            raise ValueError("there is no batch to go on with; give the training data")
