"""A user's own texts, in whatever they come: a file, a data set, a frame, or lists."""

import numbers
import warnings
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas
from datasets import ClassLabel, Dataset, DatasetDict

from blob_pyro.tasks.class_names import class_order
from blob_pyro.tasks.task_data import read_examples, warn_of_shared_examples
from blob_pyro.tasks.text_classification import TextClassificationTask
from blob_pyro.tasks.text_files import is_like_row, table_rows, text_cell


def text_task(
    data: Any,
    labels: Sequence[str | int] | None = None,
    *,
    text_column: str = "text",
    label_column: str = "label",
    class_names: Sequence[str] | None = None,
) -> TextClassificationTask:
    """Make a task of labelled texts.

    Parameters
    ----------
    data
        A CSV, JSON-lines or Parquet file, a ``datasets.Dataset``, a ``pandas.DataFrame``, or a
        sequence of N texts (with ``labels``).  A data set or frame may name its examples in the
        column ``id``, and have second texts in ``text_pair``.
    labels
        N class names or whole numbers, for a sequence of texts.
    text_column, label_column
        Names of the columns of a file, data set or frame.
    class_names
        All classes in their order, some of which the labels may lack; None takes those that the
        labels have.

    Returns
    -------
    TextClassificationTask
        With the split ``train``: all texts.  Class names that are whole numbers are in the order of
        the numbers, others in that of the alphabet; a ``ClassLabel`` column keeps its own order.

    Raises
    ------
    ValueError
        If a text is empty or none, a label is missing, or there are fewer than two classes; the
        message names the row.

    Examples
    --------
    >>> text_task(["no toner", "locked out"], ["printing", "login"]).class_names
    ('login', 'printing')
    """
    if isinstance(data, str | Path):
        if labels is not None:
            raise ValueError(f"labels were given beside the file {data}; name its label_column")
        return read_table(data, text_column, label_column, test_fraction=0, class_names=class_names)
    known: list[str] | None = None
    if isinstance(data, Dataset | pandas.DataFrame):
        if labels is not None:
            raise ValueError(
                f"labels were given beside a {type(data).__name__}; name its label_column"
            )
        columns = data.column_names if isinstance(data, Dataset) else list(data.columns)
        for column in (text_column, label_column):
            if column not in columns:
                raise ValueError(
                    f"the data have no column {column!r} but {columns}; give text_column or "
                    "label_column"
                )
        feature = data.features[label_column] if isinstance(data, Dataset) else None
        known = feature.names if isinstance(feature, ClassLabel) else None
        labels = list(data[label_column])
    if labels is None:
        raise ValueError("the texts have no labels; pass labels=[...], one for each text")
    rows = texts_by_column(data, text_column)
    _check_order(labels, "the labels")
    if (size := len(rows["text"])) != len(labels):
        raise ValueError(f"there are {size} texts and {len(labels)} labels; give one each")
    places = [f"row {row}" for row in range(len(labels))]
    if known is None:
        named = [_class_name(*pair) for pair in zip(places, labels, strict=True)]
    else:
        named = [known[cast(int, n)] if n in range(len(known)) else cast(Any, n) for n in labels]
    rows = {"id": [str(row) for row in range(len(labels))], **rows}
    names, examples = _numbered(rows, places, named, known or class_names)
    single = TextClassificationTask.prompt
    prompt = single.replace("{text}", "{text}\n{text_pair}") if "text_pair" in rows else single
    return TextClassificationTask("texts", DatasetDict(train=examples), names, prompt)


def texts_by_column(data: Any, text_column: str = "text") -> dict[str, list[str]]:
    """Give the texts as the column ``text``, with a frame's or data set's ``id`` and ``text_pair``.

    Examples
    --------
    >>> texts_by_column(pandas.DataFrame({"text": ["no toner"], "id": [7]}))
    {'text': ['no toner'], 'id': ['7']}
    """
    rows = {"text": texts_of(data, text_column)}
    if isinstance(data, Dataset | pandas.DataFrame):
        beside = {"id", "text_pair"} - {text_column}
        columns = data.column_names if isinstance(data, Dataset) else data.columns
        if "id" in (found := beside & {*columns}):
            rows["id"] = [str(name) for name in data["id"]]
        if "text_pair" in found:
            rows["text_pair"] = texts_of(data, "text_pair")
    return rows


def texts_of(data: Any, text_column: str = "text") -> list[str]:
    """Give the texts of a file, data set, frame or sequence, whether labelled or not.

    Examples
    --------
    >>> texts_of(pandas.DataFrame({"text": ["no toner"]}))
    ['no toner']
    """
    if isinstance(data, str):
        raise ValueError(f"data is the one text {data!r}; give a list of texts")
    if isinstance(data, Dataset | pandas.DataFrame):
        data = data[text_column]
    if isinstance(data, pandas.DataFrame):
        raise ValueError(f"the frame has several columns {text_column!r}; leave one")
    _check_order(data, "the texts")
    for row, text in enumerate(data):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"row {row}: the text is {text!r}; give a text that is not empty")
    return [str(text) for text in data]


def _check_order(values: Any, what: str) -> None:
    """Raise a ``ValueError`` for what has no order and length of its own."""
    if isinstance(values, Mapping | Set) or not hasattr(values, "__len__"):
        raise ValueError(f"{what} are a {type(values).__name__}; give a list, array or series")


def _class_name(place: str, label: Any) -> str:
    whole = isinstance(label, numbers.Integral) and not isinstance(label, bool | np.bool_)
    if not whole and not (isinstance(label, str) and label.strip()):
        raise ValueError(f"{place}: the label is {label!r}; give a class name or a whole number")
    return str(label).strip()


def _numbered(
    rows: dict[str, list[str]],
    places: Sequence[str],
    labels: Sequence[str],
    class_names: Sequence[str] | None,
) -> tuple[tuple[str, ...], Dataset]:
    """Give the classes, and the rows with the number of each one's class."""
    names = class_order(labels) if class_names is None else tuple(class_names)
    for place, label in zip(places, labels, strict=True):
        if label not in names:
            raise ValueError(f"{place}: the label {label!r} is not one of the classes {[*names]}")
    return names, Dataset.from_dict({**rows, "label": [names.index(label) for label in labels]})


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
        ``.csv`` or ``.tsv`` (with a header; commas, semicolons or tabs), ``.jsonl`` or ``.json``
        (one object a line), UTF-8; or ``.parquet``.
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
    path, columns = Path(path), (text_column, label_column)
    if not 0 <= test_fraction < 1:
        raise ValueError(f"test_fraction={test_fraction} must be at least 0 and below 1")
    if text_column == label_column:
        raise ValueError(f"{path}: {text_column!r} cannot be the text column and the label column")
    (lines, texts, labels), num_bad = _columns(path, columns, skip_bad_rows)
    places = [f"{path}, line {line}" for line in lines]
    names, data = _numbered({"id": lines, "text": texts}, places, labels, class_names)
    for place, text in zip(places, texts, strict=True):
        if any(is_like_row(part, names) for part in text.splitlines()[:-1]):
            said = "the text that begins here seems to hold further rows; is a quote not closed?"
            warnings.warn(f"{place}: {said}", stacklevel=2)
    splits = _split(path, data, test_fraction, seed)
    return TextClassificationTask(path.stem, splits, names, num_bad=num_bad)


def read_texts(
    path: str | Path, text_column: str = "text", *, skip_bad_rows: bool = False
) -> tuple[Dataset, int]:
    r"""Read texts from a file, labelled or not, and count the bad rows.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "strangers.csv"
    >>> _ = path.write_text("text\nwho won the match?\n")
    >>> read_texts(path)[0][0]
    {'id': '2', 'text': 'who won the match?'}
    """
    (lines, texts), num_bad = _columns(Path(path), (text_column,), skip_bad_rows)
    return Dataset.from_dict({"id": lines, "text": texts}), num_bad


def _columns(
    path: Path, columns: Sequence[str], skip_bad_rows: bool
) -> tuple[list[list[str]], int]:
    """Give the lines of a table's rows, its columns, and how many rows were bad."""
    rows = ((f"{path}, line {row[0]}", row) for row in table_rows(path, columns))
    found, num_bad = read_examples(
        rows,
        lambda row: (str(row[0]), *(text_cell(row, column) for column in columns)),
        skip_bad_rows,
    )
    if not found:
        but = f" but {num_bad} bad ones (without --skip-bad-rows the first says why)"
        raise ValueError(f"{path}: the file has no rows{but if num_bad else ''}")
    return [[*column] for column in zip(*found, strict=True)], num_bad


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
