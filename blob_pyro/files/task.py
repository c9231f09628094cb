"""What a saved posterior says of its task, as JSON values."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

from datasets import DatasetDict
from pydantic import Field, TypeAdapter

from blob_pyro.files.config import Record
from blob_pyro.tasks import (
    MultipleChoiceTask,
    Scoring,
    Task,
    TextClassificationTask,
    TextSource,
    find_task,
)

_Part = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
# No width in a field, which could ask for any amount of memory, and no more than a column.
_Template = Annotated[str, Field(pattern=r"^([^{}]|\{\w+\})*$")]


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


class _SourceRecord(Record):
    # They become part of a path, which must stay below the data's folder.
    path: Annotated[str, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$")]
    config: _Part
    splits: dict[str, _Part]
    text: _Template
    text_pair: _Template | None = None


class _TextsRecord(Record):
    name: str
    kind: Literal["texts"]
    class_names: list[str]
    prompt: str
    words: list[str] = Field(default_factory=list)
    source: _SourceRecord | None = None
    scoring: Scoring = "options"


class _QuestionsRecord(Record):
    name: str
    kind: Literal["questions"]
    scoring: Scoring = "options"


_RECORDS: TypeAdapter[_TextsRecord | _QuestionsRecord] = TypeAdapter(
    Annotated[_TextsRecord | _QuestionsRecord, Field(discriminator="kind")]
)


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
    read = _RECORDS.validate_python(record)
    if isinstance(read, _QuestionsRecord):
        task = find_task(read.name)
        if not isinstance(task, MultipleChoiceTask):
            raise ValueError(f"{read.name} has texts, and kind is 'questions'")
        return task, read.scoring
    source = None if read.source is None else TextSource(**read.source.model_dump())
    return (
        TextClassificationTask(
            read.name,
            DatasetDict(),
            tuple(read.class_names),
            read.prompt,
            tuple(read.words),
            source,
        ),
        read.scoring,
    )
