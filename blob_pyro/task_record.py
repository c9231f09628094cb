"""What a saved posterior says of its task, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from datasets import DatasetDict

from blob_pyro.tasks import (
    MultipleChoiceTask,
    Scoring,
    Task,
    TextClassificationTask,
    TextSource,
    find_task,
)


def task_record(task: Task, scoring: Scoring = "options") -> dict[str, Any]:
    """Give what prediction needs to know of a task.

    Parameters
    ----------
    task
        Any task.
    scoring
        How the network answers, see :func:`blob_pyro.tasks.collator_for`.

    Returns
    -------
    dict
        JSON values.

    Examples
    --------
    >>> from blob_pyro.tasks import TASKS
    >>> task_record(TASKS["boolq"], "letters")
    {'name': 'boolq', 'kind': 'questions', 'scoring': 'letters'}
    """
    if isinstance(task, MultipleChoiceTask):
        return {"name": task.name, "kind": "questions", "scoring": scoring}
    return {
        "name": task.name,
        "kind": "texts",
        "class_names": list(task.class_names),
        "prompt": task.prompt,
        "words": list(task.words),
        "source": None if task.source is None else asdict(task.source),
        "scoring": scoring,
    }


def recorded_task(record: Mapping[str, Any]) -> tuple[Task, Scoring]:
    """Make the task of a record that :func:`task_record` gave.

    Parameters
    ----------
    record
        JSON values.

    Returns
    -------
    task, scoring
        The task without its data, and how the network answers.

    Raises
    ------
    ValueError
        If the record names questions that this version does not know.
    """
    scoring: Scoring = record.get("scoring", "options")
    if record["kind"] == "questions":
        return find_task(record["name"]), scoring
    source = record.get("source")
    task = TextClassificationTask(
        record["name"],
        DatasetDict(),
        tuple(record["class_names"]),
        record["prompt"],
        tuple(record.get("words", ())),
        None if source is None else TextSource(**source),
    )
    return task, scoring
