"""How long examples are, and the order in which bulk prediction reads them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from datasets import Dataset
from torch.utils.data import Sampler

_TEXTS = ("text", "text_pair", "prompt")


def lengths(data: Dataset) -> list[int]:
    """Count the tokens of each example, or the characters that they will be made of.

    Parameters
    ----------
    data
        Examples of any task, or tokenised ones.

    Returns
    -------
    list of int
        One an example.

    Raises
    ------
    ValueError
        If no column holds tokens or a text.

    Examples
    --------
    >>> lengths(Dataset.from_dict({"text": ["no toner", "hi"], "label": [1, 0]}))
    [8, 2]
    """
    if "input_ids" in data.column_names:
        return [len(ids) for ids in data["input_ids"]]
    columns = [data[name] for name in _TEXTS if name in data.column_names]
    if not columns:
        raise ValueError(
            f"the data have the columns {data.column_names}; add one of {['input_ids', *_TEXTS]}"
        )
    if "options" in data.column_names:
        columns.append(["".join(options) for options in data["options"]])
    return [sum(map(len, texts)) for texts in zip(*columns, strict=True)]


class LongestFirst(Sampler[int]):
    """Reads the longest examples first: little padding is needed, and memory runs out early.

    Parameters
    ----------
    counts
        Length of each example.

    Attributes
    ----------
    order
        Index of each example in the order of reading: what
        :func:`blob_pyro.infer.posterior_predictive` puts its results back by.

    Examples
    --------
    >>> LongestFirst([2, 8]).order
    [1, 0]
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self.order = sorted(range(len(counts)), key=lambda index: -counts[index])

    @classmethod
    def by_tokens(
        cls, data: Dataset, collator: Callable[[list[dict[str, Any]]], Mapping[str, torch.Tensor]]
    ) -> Self:
        """Count the tokens that a collator makes of each example.

        By characters, formulas would land among texts of half their tokens.
        """
        return cls([collator([example])["input_ids"].shape[1] for example in data])

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)
