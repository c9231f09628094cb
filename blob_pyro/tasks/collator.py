"""What all collators share: a tokenizer that pads, and the loader of a whole data set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from blob_pyro.tasks.lengths import LongestFirst

Batch = dict[str, torch.Tensor]


class Collator(ABC):
    """Turns examples into the keywords of a model.

    Parameters
    ----------
    tokenizer
        Tokenizer with a padding token.
    max_length
        Most tokens of a text; a subclass says what is cut.

    Raises
    ------
    ValueError
        If the tokenizer has no padding token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int = 256) -> None:
        if tokenizer.pad_token is None:
            raise ValueError(
                "the tokenizer has no padding token; set tokenizer.pad_token = tokenizer.eos_token"
            )
        self.tokenizer = tokenizer
        self.max_length = max_length

    @abstractmethod
    def __call__(self, examples: Sequence[dict[str, Any]]) -> Batch:
        """Make a batch of examples."""

    def loader(self, data: Dataset, batch_size: int = 16) -> DataLoader[Any]:
        """Make a loader for prediction, which reads the longest examples first.

        :func:`blob_pyro.infer.posterior_predictive` gives its results in the data set's own order.
        """
        order = LongestFirst.by_tokens(data, self)
        return DataLoader(data, batch_size=batch_size, sampler=order, collate_fn=self)


def with_labels(batch: Batch, examples: Sequence[dict[str, Any]]) -> Batch:
    """Add the labels to a batch, unless there are none or one is -1."""
    labels = [example.get("label", -1) for example in examples]
    return batch if min(labels) < 0 else {**batch, "labels": torch.tensor(labels)}


def padded(
    rows: Sequence[list[int]], value: int, *, on_left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make rows equally long.

    Parameters
    ----------
    rows
        Numbers of each row.
    value
        What fills the shorter ones.
    on_left
        Fill them at their beginning.

    Returns
    -------
    rows, mask
        Both ``B x T``, int64; the mask is 1 where a number is real.

    Examples
    --------
    >>> padded([[5, 6], [7]], 0, on_left=True)[0].tolist()
    [[5, 6], [0, 7]]
    """
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), value)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if on_left else slice(len(row))
        ids[index, place] = torch.tensor(row)
        mask[index, place] = 1
    return ids, mask
