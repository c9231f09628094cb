"""What a saved posterior says of its task, as JSON values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_args

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
        If the record is none, or names questions that this version does not know.
    """
    scoring: Scoring = record.get("scoring", "options")
    if scoring not in get_args(Scoring):
        raise ValueError(f"scoring is {scoring!r}; it has to be one of {[*get_args(Scoring)]}")
    if _text(record, "kind") == "questions":
        return _questions(_text(record, "name")), scoring
    if record["kind"] != "texts":
        raise ValueError(f"kind is {record['kind']!r}; it has to be 'texts' or 'questions'")
    task = TextClassificationTask(
        _text(record, "name"),
        DatasetDict(),
        _texts(record, "class_names"),
        _text(record, "prompt"),
        _texts({"words": [], **record}, "words"),
        _source(record.get("source")),
    )
    return task, scoring


def _questions(name: str) -> Task:
    task = find_task(name)
    if not isinstance(task, MultipleChoiceTask):
        raise ValueError(f"{name} has texts, and kind is 'questions'")
    return task


def _source(record: Any) -> TextSource | None:
    if record is None:
        return None
    if not isinstance(record, Mapping) or not isinstance(record.get("splits"), Mapping):
        raise ValueError(f"source is {record!r}; it has to say its path, config and splits")
    pair = record.get("text_pair")
    # They become part of a path, which must stay below the data's folder.
    names = {name: _text(record, name) for name in ("path", "config")}
    splits = {split: _text(record["splits"], split) for split in record["splits"]}
    for name in (*names["path"].split("/"), names["config"], *splits.values()):
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"source is {record!r}, where {name!r} is no name of a data set")
    return TextSource(
        **names,
        splits=splits,
        text=_text(record, "text"),
        text_pair=None if pair is None else _text(record, "text_pair"),
    )


def _text(record: Mapping[str, Any], name: str) -> str:
    if not isinstance(record.get(name), str):
        raise ValueError(f"{name} is {record.get(name)!r}; it has to be a text")
    return str(record[name])


def _texts(record: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = record.get(name)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name} is {values!r}; it has to be a list of texts")
    return tuple(values)
