"""What all tasks share: reading the examples of a split, and checking them."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from blob_pyro.tasks.source import Row, Source

if TYPE_CHECKING:
    from datasets import Dataset

_Row = TypeVar("_Row")
Example = TypeVar("Example")


@dataclass(frozen=True)
class TaskData:
    """The examples that were read of a split.

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
            data = with_column(data, "id", [str(index) for index in range(len(data))])
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
            raise ValueError(f"{what}: {limit} examples were asked for; there are {len(self.data)}")
        return replace(self, data=self.data.shuffle(seed=seed).select(range(limit)))


def with_column(data: Dataset, name: str, values: Sequence[Any]) -> Dataset:
    """Add a column, without the progress bar that a shuffled data set would show."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        return data.add_column(name, values)
    disable_progress_bars()
    try:
        return data.add_column(name, values)
    finally:
        enable_progress_bars()


class DataTask(ABC):
    """A task whose examples are in memory, by split, or read from a source."""

    name: str
    splits: Mapping[str, Dataset]
    source: Source | None

    @abstractmethod
    def _example(self, row: Row) -> Any:
        """Make the example of a row of the source, a dataclass."""

    def has_validation(self, data_dir: str | Path | None = None) -> bool:
        """Tell whether there is a validation split beside the one that is tested on."""
        if self.source is None:
            return "validation" in self.splits
        return self.source.has_validation(data_dir)

    def load(
        self,
        split: str,
        *,
        data_dir: str | Path | None = None,
        limit: int | None = None,
        seed: int = 0,
        skip_bad_rows: bool = False,
    ) -> TaskData:
        """Read the examples of a split.

        Parameters
        ----------
        split
            One of ``splits``, or of the source.
        data_dir
            Folder of local data, see :meth:`Source.rows`; None reads the Hub.
        limit
            Take this many examples at random; None takes all, in their order.
        seed
            Seed of that choice.
        skip_bad_rows
            Leave out rows of the source that are no example, and count them.

        Returns
        -------
        TaskData
            Columns ``id``, ``label`` and those of a :class:`Question` or of a
            :class:`LabelledText`. Equal ids get ``#2``, ``#3`` ... appended.

        Raises
        ------
        ValueError
            If the task has no such split, a file is absent, a row is bad (with file, line and
            reason), or there are fewer examples than ``limit``.
        """
        if split in self.splits:
            examples = TaskData.in_memory(self.splits[split])
        elif self.source is None:
            raise ValueError(f"{self.name} has no split {split!r} but {sorted(self.splits)}")
        else:
            rows = self.source.rows(split, data_dir)
            found, num_bad = read_examples(rows, self._example, skip_bad_rows)
            if not found:
                raise ValueError(f"{self.name}, {split}: has no examples; {num_bad} rows are bad")
            examples = TaskData(_table(found), len(found) + num_bad, num_bad)
        return examples.sample(limit, seed, f"{self.name}, {split}")


def _table(examples: Sequence[Any]) -> Dataset:
    from datasets import Dataset

    rows, seen = [asdict(example) for example in examples], Counter[str]()
    for row in rows:
        seen[row["id"]] += 1
        if seen[row["id"]] > 1:
            row["id"] += f"#{seen[row['id']]}"
    # A text alone has no text_pair.
    names = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    return Dataset.from_dict({name: [row[name] for row in rows] for name in names})


def read_examples(
    rows: Iterable[tuple[str, _Row]], parse: Callable[[_Row], Example], skip_bad_rows: bool
) -> tuple[list[Example], int]:
    """Make an example of each row, or say which row is none and why.

    Parameters
    ----------
    rows
        Place and columns of each.
    parse
        Makes the example, or raises ``KeyError``, ``TypeError`` or ``ValueError``.
    skip_bad_rows
        Leave out rows that are not examples, and count them.

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
    found = [*parsed_rows(rows, parse, skip_bad_rows)]
    examples = [example for example in found if example is not None]
    return examples, len(found) - len(examples)


def parsed_rows(
    rows: Iterable[tuple[str, _Row]], parse: Callable[[_Row], Example], skip_bad_rows: bool
) -> Iterator[Example | None]:
    """Do what :func:`read_examples` does, one row at a time; None for a row that is left out."""
    for place, row in rows:
        try:
            example: Example | None = parse(row)
        except (KeyError, TypeError, ValueError) as error:
            if not skip_bad_rows:
                reason = f"has no {error}" if isinstance(error, KeyError) else error
                raise ValueError(
                    f"{place}: {reason}; correct the row, or leave it out with --skip-bad-rows"
                ) from error
            example = None
        yield example


def check_labels(data: Dataset, class_names: Sequence[str] | None = None) -> None:
    """Raise a ``ValueError`` unless every example has the index of a class.

    Parameters
    ----------
    data
        Examples with ``label`` and, for questions, ``options``.
    class_names
        Names of the classes in their order; None if each example has options of its own.

    Examples
    --------
    >>> from datasets import Dataset
    >>> data = Dataset.from_dict({"text": ["no toner"], "label": [1.0]})
    >>> check_labels(data, ["login", "printing"])
    Traceback (most recent call last):
    ...
    ValueError: row 0 has the label 1.0; a whole number from 0 to 1 is needed
    """
    if "label" not in data.column_names:
        raise ValueError(f"the data have the columns {data.column_names}; a column label is needed")
    if class_names is not None:
        _check_order(data, class_names)
        counts = [len(class_names)] * len(data)
    else:
        counts = [len(options) for options in data["options"]]
    for row, (label, count) in enumerate(zip(data["label"], counts, strict=True)):
        if type(label) is not int or not 0 <= label < count:
            raise ValueError(
                f"row {row} has the label {label!r}; a whole number from 0 to {count - 1} is needed"
            )


def _check_order(data: Dataset, class_names: Sequence[str]) -> None:
    from datasets import ClassLabel

    feature = data.features["label"]
    if not isinstance(feature, ClassLabel):
        return
    indices = {name.casefold(): index for index, name in enumerate(class_names)}
    for index, name in enumerate(feature.names):
        if indices.get(name.casefold(), index) != index:
            raise ValueError(
                f"the data's label {index} is {name!r}, but the task's class {index} is "
                f"{class_names[index] if index < len(class_names) else 'absent'!r}; give the task "
                f"class_names={tuple(feature.names)}, in the data's order"
            )


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
    no example to train on has the classes ['login']; give more, or hold out fewer
    """
    labels = set(train["label"])
    absent = [name for index, name in enumerate(class_names) if index not in labels]
    if absent:
        said = f"no example to train on has the classes {absent}; give more, or hold out fewer"
        warnings.warn(said, stacklevel=3)
