"""What a division of examples may spoil without an error."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


def warn_of_shared_examples(train: Dataset, held_out: Dataset, what: str) -> None:
    """Warn if held-out examples are among those of training: they measure what was learnt by heart.

    Parameters
    ----------
    train, held_out
        Examples; neither id nor label tells them apart.
    what
        Names the held-out ones, for the message.

    Examples
    --------
    >>> from datasets import Dataset
    >>> data = Dataset.from_dict({"text": ["no toner"], "label": [0]})
    >>> with warnings.catch_warnings(record=True, action="always") as caught:
    ...     warn_of_shared_examples(data, data, "test")
    >>> print(caught[0].message)
    test: 1 of 1 examples are in the training data too; leave out repeated examples
    """
    columns = sorted({*train.column_names, *held_out.column_names} - {"id", "label"})
    if not {*columns} <= {*train.column_names} & {*held_out.column_names}:
        return
    known = {repr(row) for row in zip(*(train[column] for column in columns), strict=True)}
    rows = zip(*(held_out[column] for column in columns), strict=True)
    num_shared = sum(repr(row) in known for row in rows)
    if num_shared:
        warnings.warn(
            f"{what}: {num_shared} of {len(held_out)} examples are in the training data too; leave "
            "out repeated examples",
            stacklevel=3,
        )


def warn_of_untrained_classes(train: Dataset, class_names: Sequence[str]) -> None:
    """Warn if a class has no example to train on.

    Examples
    --------
    >>> from datasets import Dataset
    >>> data = Dataset.from_dict({"text": ["no toner"], "label": [1]})
    >>> with warnings.catch_warnings(record=True, action="always") as caught:
    ...     warn_of_untrained_classes(data, ["login", "printing"])
    >>> print(caught[0].message)
    no example to train on has the classes ['login']; give more examples, or hold out fewer
    """
    labels = set(train["label"])
    absent = [name for index, name in enumerate(class_names) if index not in labels]
    if absent:
        warnings.warn(
            f"no example to train on has the classes {absent}; give more examples, or hold out "
            "fewer",
            stacklevel=3,
        )
