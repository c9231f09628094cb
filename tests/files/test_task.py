from __future__ import annotations

import json
from typing import Any

import pytest

from blob_pyro.files.task import recorded_task, task_record
from blob_pyro.tasks import TASKS, TEXT_TASKS, helpdesk


@pytest.mark.parametrize(
    ("task", "scoring"),
    [
        (TASKS["openbookqa"], "letters"),
        (TEXT_TASKS["super_glue_wic"], "head"),
        (TEXT_TASKS["super_glue_boolq"], "options"),
    ],
)
def test_a_known_task_survives_its_record(task: Any, scoring: Any) -> None:
    record = json.loads(json.dumps(task_record(task, scoring)))
    assert recorded_task(record) == (task, scoring)


def test_a_users_task_is_recorded_without_its_data() -> None:
    task, scoring = recorded_task(json.loads(json.dumps(task_record(helpdesk()))))
    assert scoring == "options"
    assert (task.name, task.answers) == ("helpdesk", helpdesk().class_names)
    assert not task.splits  # type: ignore[union-attr]


def test_records_of_older_posteriors_are_read() -> None:
    record = {"name": "t", "kind": "texts", "class_names": ["a", "b"], "prompt": "{text}:"}
    task, scoring = recorded_task(record)
    assert (task.answers, scoring) == (("a", "b"), "options")
    with pytest.raises(ValueError, match="the task 'gone' is unknown"):
        recorded_task({"name": "gone", "kind": "questions"})
