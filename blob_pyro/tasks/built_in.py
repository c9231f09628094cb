"""The data set that comes with the library: messages to an IT help desk."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources

from blob_pyro.tasks.text_classification import TextClassificationTask

CLASS_NAMES = (
    "login",
    "hardware",
    "network",
    "software",
    "email",
    "printing",
    "access",
    "phone",
    "meeting",
    "security",
)


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
    from datasets import Dataset

    source = resources.files("blob_pyro.tasks") / "data" / "helpdesk.jsonl"
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    splits = {}
    for split in dict.fromkeys(row["split"] for row in rows):
        chosen = [row for row in rows if row["split"] == split]
        splits[split] = Dataset.from_dict(
            {
                "text": [row["text"] for row in chosen],
                "label": [_class_index(row["label"]) for row in chosen],
            }
        )
    return TextClassificationTask(
        name="helpdesk",
        splits=splits,
        class_names=CLASS_NAMES,
        prompt="{text}\n\nThe problem is about",
    )


def helpdesk_out_of_scope() -> TextClassificationTask:
    """Load the help-desk messages that belong to none of its ten intents, as a test split.

    Examples
    --------
    >>> set(helpdesk_out_of_scope().splits["test"]["label"])
    {-1}
    """
    task = helpdesk()
    splits = {"test": task.splits["out_of_scope"]}
    return replace(task, name="helpdesk_out_of_scope", splits=splits)


def _class_index(label: str | None) -> int:
    return -1 if label is None else CLASS_NAMES.index(label)
