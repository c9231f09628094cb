"""The examples that were read of a split, and how many rows were none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    from datasets import Dataset

Row = TypeVar("Row")
Example = TypeVar("Example")


@dataclass(frozen=True)
class TaskData:
    """What was read of a split.

    Parameters
    ----------
    data
        One row an example, with the columns ``id`` (string), ``label`` (int64; -1 where no class is
        right) and those of its task.
    num_rows
        Rows that the split has.
    num_bad
        Rows that were skipped because they are no example.

    Examples
    --------
    >>> from datasets import Dataset
    >>> data = Dataset.from_dict({"id": ["a", "b"], "label": [0, 1]})
    >>> str(TaskData(data, num_rows=3, num_bad=1))
    '2 of 3 rows, 1 bad ones skipped'
    """

    data: Dataset
    num_rows: int
    num_bad: int = 0

    @classmethod
    def in_memory(cls, data: Dataset) -> Self:
        """Give all rows of a data set, numbered if they have no ids."""
        if "id" not in data.column_names:
            data = data.add_column("id", [str(index) for index in range(len(data))])
        return cls(data, len(data))

    def __str__(self) -> str:
        skipped = f", {self.num_bad} bad ones skipped" if self.num_bad else ""
        return f"{len(self.data)} of {self.num_rows} rows{skipped}"

    def sample(self, limit: int | None, seed: int, what: str) -> TaskData:
        """Take some examples at random, which the seed alone decides.

        Parameters
        ----------
        limit
            How many; None takes all, in their order.
        seed
            Seed of the choice.
        what
            Name of the split, for the error.

        Returns
        -------
        TaskData
            The chosen ones.

        Raises
        ------
        ValueError
            If there are fewer than ``limit``.
        """
        if limit is None:
            return self
        if not 1 <= limit <= len(self.data):
            raise ValueError(
                f"{what}: {limit} examples were asked for, but there are {len(self.data)}"
            )
        return replace(self, data=self.data.shuffle(seed=seed).select(range(limit)))


def read_examples(
    rows: Iterable[tuple[str, Row]], parse: Callable[[Row], Example], skip_bad_rows: bool
) -> tuple[list[Example], int]:
    """Make an example of each row, or say which row is none and why.

    Parameters
    ----------
    rows
        Place and columns of each.
    parse
        Makes the example, or raises ``KeyError``, ``TypeError`` or ``ValueError``.
    skip_bad_rows
        Leave out rows that are none, and count them.

    Returns
    -------
    examples, num_bad
        In the order of the rows.

    Raises
    ------
    ValueError
        If a row is none, with place and reason.

    Examples
    --------
    >>> read_examples([("line 1", {"n": "1"}), ("line 2", {})], lambda row: int(row["n"]), True)
    ([1], 1)
    """
    examples, num_bad = [], 0
    for place, row in rows:
        try:
            examples.append(parse(row))
        except (KeyError, TypeError, ValueError) as error:
            if not skip_bad_rows:
                reason = f"has no {error}" if isinstance(error, KeyError) else error
                raise ValueError(
                    f"{place}: {reason}; mend the row, or leave it out with --skip-bad-rows"
                ) from error
            num_bad += 1
    return examples, num_bad


def unique_ids(ids: Sequence[str]) -> list[str]:
    """Tell equal ids apart.

    Parameters
    ----------
    ids
        Names of examples, as their data set has them.

    Returns
    -------
    list of str
        The second of a name gets ``#2`` appended, the third ``#3``, and so on.

    Examples
    --------
    >>> unique_ids(["a", "b", "a"])
    ['a', 'b', 'a#2']
    """
    seen: dict[str, int] = {}
    unique = []
    for name in ids:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return unique
