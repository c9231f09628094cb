"""A user's own texts, in whatever they come: a file, a data set, a frame, or lists."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas
from datasets import ClassLabel, Dataset, DatasetDict

from blob_pyro.tasks.class_names import class_order
from blob_pyro.tasks.table import read_table
from blob_pyro.tasks.text_classification import TextClassificationTask


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
        A CSV or JSON-lines file, a ``datasets.Dataset``, a ``pandas.DataFrame``, or a sequence of
        N texts (with ``labels``).
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
    if isinstance(data, Dataset | pandas.DataFrame):
        columns = data.column_names if isinstance(data, Dataset) else list(data.columns)
        for column in (text_column, label_column):
            if column not in columns:
                raise ValueError(
                    f"the data have no column {column!r} but {columns}; name the columns with "
                    "text_column and label_column"
                )
        feature = data.features[label_column] if isinstance(data, Dataset) else None
        if isinstance(feature, ClassLabel):
            return _numbered_task(data[text_column], data[label_column], tuple(feature.names))
        data, labels = list(data[text_column]), list(data[label_column])
    if labels is None:
        raise ValueError("the texts have no labels; pass labels=[...], one for each text")
    if len(data) != len(labels):
        raise ValueError(f"there are {len(data)} texts and {len(labels)} labels; give one each")
    named = [_class_name(label, row) for row, label in enumerate(labels)]
    names = class_order(named) if class_names is None else tuple(class_names)
    return _numbered_task(data, _numbers(named, names), names)


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
    return [_text(text, row) for row, text in enumerate(data)]


def _numbers(labels: Sequence[str], names: Sequence[str]) -> list[int]:
    for row, label in enumerate(labels):
        if label not in names:
            raise ValueError(f"row {row}: the label {label!r} is none of the classes {[*names]}")
    return [names.index(label) for label in labels]


def _numbered_task(
    texts: Sequence[Any], labels: Sequence[Any], names: tuple[str, ...]
) -> TextClassificationTask:
    for row, label in enumerate(labels):
        if label is None or not 0 <= label < len(names):
            raise ValueError(f"row {row}: the label is {label!r}; give one of {list(names)}")
    rows = {
        "id": [str(row) for row in range(len(labels))],
        "text": [_text(text, row) for row, text in enumerate(texts)],
        "label": list(labels),
    }
    return TextClassificationTask("texts", DatasetDict(train=Dataset.from_dict(rows)), names)


def _text(text: Any, row: int) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"row {row}: the text is {text!r}; give a text that is not empty")
    return str(text)


def _class_name(label: Any, row: int) -> str:
    whole = isinstance(label, numbers.Integral) and not isinstance(label, bool | np.bool_)
    if not whole and not (isinstance(label, str) and label.strip()):
        raise ValueError(f"row {row}: the label is {label!r}; give a class name or a whole number")
    return str(int(cast(Any, label))) if whole else str(label).strip()
