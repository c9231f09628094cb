"""A user's own labelled texts: a CSV file or JSON lines."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from blob_pyro.tasks.source import json_lines
from blob_pyro.tasks.task_data import read_examples
from blob_pyro.tasks.text_classification import TextClassificationTask

Row = tuple[int, dict[str, Any]]


def read_table(
    path: str | Path,
    text_column: str = "text",
    label_column: str = "label",
    *,
    test_fraction: float = 0.2,
    seed: int = 0,
    skip_bad_rows: bool = False,
) -> TextClassificationTask:
    r"""Read labelled texts from a file and set a part aside for testing.

    Parameters
    ----------
    path
        ``.csv`` (with a header) or ``.jsonl`` / ``.json`` (one object a line), UTF-8.
    text_column, label_column
        Names of the columns; labels are strings or whole numbers.
    test_fraction
        Share of the rows that becomes the split ``test``, in [0, 1).
    seed
        Seed of that choice.
    skip_bad_rows
        Leave out rows without a text or a label; the task's ``num_bad`` counts them.

    Returns
    -------
    TextClassificationTask
        Splits ``train`` and, unless ``test_fraction`` is 0, ``test``, with the columns ``id`` (the
        line), ``text`` and ``label``.  Classes in sorted order.

    Raises
    ------
    ValueError
        If the file cannot be read as such a table, with the file, line and reason.

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

    def parse(numbered: Row) -> tuple[str, str, str]:
        line, row = numbered
        return str(line), _cell(row, text_column), _cell(row, label_column)

    columns = (text_column, label_column)
    rows = ((f"{path}, line {row[0]}", row) for row in _rows(path, columns))
    found, num_bad = read_examples(rows, parse, skip_bad_rows)
    if not found:
        but = f" but {num_bad} bad ones (without --skip-bad-rows the first says why)"
        raise ValueError(
            f"{path}: the file has no rows{but if num_bad else ''}; give at least one labelled "
            "text a class"
        )
    ids, texts, labels = zip(*found, strict=True)
    class_names = tuple(sorted(set(labels)))
    data = Dataset.from_dict(
        {"id": ids, "text": texts, "label": [class_names.index(label) for label in labels]}
    )
    splits = _split(path, data, test_fraction, seed)
    return TextClassificationTask(path.stem, splits, class_names, num_bad=num_bad)


def _split(path: Path, data: Dataset, test_fraction: float, seed: int) -> DatasetDict:
    if test_fraction == 0:
        return DatasetDict(train=data)
    if not 1 <= round(test_fraction * len(data)) < len(data):
        raise ValueError(
            f"{path}: {len(data)} rows cannot be divided with test_fraction={test_fraction}; give "
            "more rows, or test_fraction=0"
        )
    return data.train_test_split(test_size=round(test_fraction * len(data)), seed=seed)


def _rows(path: Path, columns: tuple[str, str]) -> Iterator[Row]:
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".jsonl", ".json"):
        raise ValueError(
            f"{path}: the ending {path.suffix!r} is unknown; give a .csv or .jsonl file"
        )
    try:
        yield from _csv_rows(path, columns) if suffix == ".csv" else json_lines(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text ({error.reason}); convert it first") from error


def _csv_rows(path: Path, columns: tuple[str, str]) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        try:
            # The header is that of all rows: skipping one mends nothing. An empty file has none.
            names = reader.fieldnames or columns
            for column in columns:
                _check_column(f"{path}: ", names, column)
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def _check_column(place: str, names: Iterable[str], column: str) -> None:
    if column not in names:
        raise ValueError(
            f"{place}has no column {column!r} but {[*names]}; name the columns with --text-column "
            "and --label-column"
        )


def _cell(row: dict[str, Any], column: str) -> str:
    _check_column("", row, column)
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise ValueError(f"column {column!r} is {value!r}; a text or whole number is needed")
    return str(value).strip()
