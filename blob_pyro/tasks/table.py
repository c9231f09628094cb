"""A user's own labelled texts: a CSV file or JSON lines."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from blob_pyro.tasks.class_names import class_order
from blob_pyro.tasks.csv_rows import csv_rows, is_like_row
from blob_pyro.tasks.source import json_lines
from blob_pyro.tasks.split_checks import warn_of_shared_examples
from blob_pyro.tasks.task_data import read_examples
from blob_pyro.tasks.text_classification import TextClassificationTask


def read_table(
    path: str | Path,
    text_column: str = "text",
    label_column: str = "label",
    *,
    test_fraction: float = 0.2,
    seed: int = 0,
    skip_bad_rows: bool = False,
    class_names: Sequence[str] | None = None,
) -> TextClassificationTask:
    r"""Read labelled texts from a file and set a part aside for testing.

    Parameters
    ----------
    path
        ``.csv`` (with a header; commas, semicolons or tabs) or ``.jsonl`` / ``.json`` (one object a
        line), UTF-8.
    text_column, label_column
        Names of the columns; labels are strings or whole numbers.
    test_fraction
        Share of the rows that becomes the split ``test``, in [0, 1).
    seed
        Seed of that choice.
    skip_bad_rows
        Leave out rows without a text or a label; the task's ``num_bad`` counts them.
    class_names
        All classes in their order, some of which the file may lack; None takes those that it has.

    Returns
    -------
    TextClassificationTask
        Splits ``train`` and, unless ``test_fraction`` is 0, ``test``, with the columns ``id`` (the
        line), ``text`` and ``label``.  Classes in the order of
        :func:`blob_pyro.tasks.class_order`.

    Raises
    ------
    ValueError
        If the file cannot be read as such a table, with the file, line and reason.

    Warns
    -----
    UserWarning
        If a quoted text seems to hold further rows, two classes look alike, or a text is in both
        splits.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "tickets.csv"
    >>> _ = path.write_text("text,label\nno toner,printing\nlocked out,login\n")
    >>> read_table(path, test_fraction=0).class_names
    ('login', 'printing')
    """
    path = Path(path)
    if not 0 <= test_fraction < 1:
        raise ValueError(f"test_fraction={test_fraction} must be at least 0 and below 1")
    columns = (text_column, label_column)
    if text_column == label_column:
        raise ValueError(f"{path}: {text_column!r} cannot be the text column and the label column")
    rows = ((f"{path}, line {row.line}", row) for row in _rows(path, columns))
    found, num_bad = read_examples(rows, lambda row: row.example(*columns), skip_bad_rows)
    if not found:
        but = f" but {num_bad} bad ones (without --skip-bad-rows the first says why)"
        raise ValueError(
            f"{path}: the file has no rows{but if num_bad else ''}; give at least one labelled "
            "text a class"
        )
    lines, texts, labels = zip(*found, strict=True)
    names = class_order(labels) if class_names is None else tuple(class_names)
    for line, text, label in found:
        if label not in names:
            raise ValueError(
                f"{path}, line {line}: the label {label!r} is none of the classes {[*names]}"
            )
        if any(is_like_row(part, names) for part in text.splitlines()[:-1]):
            warnings.warn(
                f"{path}, line {line}: the text that begins here seems to hold further rows; is a "
                "quote not closed?",
                stacklevel=2,
            )
    data = Dataset.from_dict(
        {"id": lines, "text": texts, "label": [names.index(label) for label in labels]}
    )
    splits = _split(path, data, test_fraction, seed)
    return TextClassificationTask(path.stem, splits, names, num_bad=num_bad)


@dataclass(frozen=True)
class _Row:
    """A row of either kind of file: its cells under their names."""

    line: int
    names: Sequence[str]
    cells: Sequence[Any]

    def example(self, text_column: str, label_column: str) -> tuple[str, str, str]:
        """Give line, text and label."""
        if len(self.cells) != len(self.names):
            raise ValueError(
                f"has {len(self.cells)} cells, but the header has {len(self.names)}; put quotes "
                "around a text that holds a delimiter"
            )
        return str(self.line), self._cell(text_column), self._cell(label_column)

    def _cell(self, column: str) -> str:
        _check_column("", self.names, column)
        value = self.cells[self.names.index(column)]
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            raise ValueError(f"column {column!r} is {value!r}; a text or whole number is needed")
        return str(value).strip()


def _split(path: Path, data: Dataset, test_fraction: float, seed: int) -> DatasetDict:
    if test_fraction == 0:
        return DatasetDict(train=data)
    if not 1 <= round(test_fraction * len(data)) < len(data):
        raise ValueError(
            f"{path}: {len(data)} rows cannot be divided with test_fraction={test_fraction}; give "
            "more rows, or test_fraction=0"
        )
    splits = data.train_test_split(test_size=round(test_fraction * len(data)), seed=seed)
    warn_of_shared_examples(splits["train"], splits["test"], f"{path}: test")
    return splits


def _rows(path: Path, columns: tuple[str, str]) -> Iterator[_Row]:
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".json"):
        for line, row in json_lines(path):
            yield _Row(line, [*row], [*row.values()])
        return
    if suffix != ".csv":
        raise ValueError(
            f"{path}: the ending {path.suffix!r} is unknown; give a .csv or .jsonl file"
        )
    names, rows = csv_rows(path, columns)
    # The header is that of all rows: skipping one mends nothing. An empty file has none.
    for column in columns if names else ():
        _check_column(f"{path}: ", names, column)
        if names.count(column) > 1:
            raise ValueError(f"{path}: the column {column!r} stands twice in the header")
    for line, cells in rows:
        yield _Row(line, names, cells)


def _check_column(place: str, names: Iterable[str], column: str) -> None:
    if column not in names:
        raise ValueError(
            f"{place}has no column {column!r} but {[*names]}; name the columns with --text-column "
            "and --label-column"
        )
