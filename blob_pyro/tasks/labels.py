"""The labels that examples must have before anything is fitted to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


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
