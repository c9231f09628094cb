"""The data sets that come with the library: help-desk messages, and reviews of anything."""

import json
from dataclasses import replace
from importlib import resources
from typing import Any

from blob_pyro.tasks.text_classification import TextClassificationTask


def helpdesk() -> TextClassificationTask:
    """Load the help-desk messages: ten intents, and messages that belong to none.

    Returns
    -------
    TextClassificationTask
        Splits ``train`` (250), ``validation`` (100), ``test`` (200) and ``out_of_scope`` (100,
        label -1).

    Examples
    --------
    >>> task = helpdesk()
    >>> {split: len(data) for split, data in task.splits.items()}
    {'train': 250, 'validation': 100, 'test': 200, 'out_of_scope': 100}
    """
    return _read("helpdesk", prompt="{text}\n\nThe problem is about")


def reviews() -> TextClassificationTask:
    """Load reviews of one sentence, praise or complaint, and sentences that are no reviews.

    Returns
    -------
    TextClassificationTask
        Splits ``train`` (128), ``validation`` (52), ``test`` (160) and ``out_of_scope`` (60, label
        -1).

    Examples
    --------
    >>> reviews().class_names
    ('negative', 'positive')
    """
    return _read("reviews", prompt="{text}\n\nThis review is")


def helpdesk_out_of_scope() -> TextClassificationTask:
    """Load the help-desk messages that belong to none of its ten intents, as a test split.

    Examples
    --------
    >>> set(helpdesk_out_of_scope().splits["test"]["label"])
    {-1}
    """
    splits = {"test": helpdesk().splits["out_of_scope"]}
    return replace(helpdesk(), name="helpdesk_out_of_scope", splits=splits)


def _read(name: str, prompt: str) -> TextClassificationTask:
    from datasets import Dataset

    source = resources.files("blob_pyro.tasks") / "data" / f"{name}.jsonl"
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    class_names = tuple(dict.fromkeys(row["label"] for row in rows if row["label"] is not None))
    # What belongs to no class has the label -1.
    numbers = {name: number for number, name in enumerate(class_names)} | {None: -1}
    splits: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        example = {"text": row["text"], "label": numbers[row["label"]]}
        splits.setdefault(row["split"], []).append(example)
    data = {split: Dataset.from_list(examples) for split, examples in splits.items()}
    return TextClassificationTask(name, data, class_names, prompt)
