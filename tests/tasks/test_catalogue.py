from __future__ import annotations

from typing import Any

import pytest

from blob_pyro.tasks import TASKS, Question


def arc(key: str, labels: str = "ABCD", texts: Any = None, **row: Any) -> dict[str, Any]:
    texts = texts or [f" thing {label} " for label in labels]
    choices = {"text": texts, "label": [*labels]}
    return {"id": "q1", "question": "What melts?", "choices": choices, "answerKey": key, **row}


def openbook(**row: Any) -> dict[str, Any]:
    made = arc("C", **row)
    made["question_stem"] = made.pop("question")
    return made


WINO: dict[str, Any] = {
    "sentence": "The mug did not fit into the box since the _ was too wide.",
    "option1": "mug",
    "option2": "box",
    "answer": "1",
}
BOOL: dict[str, Any] = {
    "question": "do geese fly",
    "passage": "Most geese fly. ",
    "answer": True,
}
MMLU: dict[str, Any] = {
    "question": "Which is a noble gas?",
    "subject": "college_chemistry",
    "choices": ["iron", "neon", "lead", "zinc"],
    "answer": 1,
}
ASKED = "Question: What melts?\nAnswer:"

# Rows written here in each data set's columns, and the question that each must give.
GOLDEN: list[tuple[str, dict[str, Any], Question]] = [
    ("openbookqa", openbook(), Question("q1", ASKED, tuple(f"thing {x}" for x in "ABCD"), 2)),
    ("openbookqa", openbook(labels="ABCD", texts=["a", "b", "c", "d"]),
     Question("q1", ASKED, ("a", "b", "c", "d"), 2)),
    ("openbookqa", {**openbook(), "id": "7"},
     Question("7", ASKED, tuple(f"thing {x}" for x in "ABCD"), 2)),
    ("ai2_arc_easy", arc("B"), Question("q1", ASKED, tuple(f"thing {x}" for x in "ABCD"), 1)),
    ("ai2_arc_easy", arc("C", "ABC"), Question("q1", ASKED, tuple(f"thing {x}" for x in "ABC"), 2)),
    ("ai2_arc_easy", arc("3", "1234"),
     Question("q1", ASKED, tuple(f"thing {x}" for x in "1234"), 2)),
    ("ai2_arc_challenge", arc("E", "ABCDE"),
     Question("q1", ASKED, tuple(f"thing {x}" for x in "ABCDE"), 4)),
    ("commonsense_qa", arc("A", "ABCDE", question_concept="melting"),
     Question("q1", ASKED, tuple(f"thing {x}" for x in "ABCDE"), 0)),
    ("winogrande_s", WINO, Question(
        WINO["sentence"], "The mug did not fit into the box since the",
        ("mug was too wide.", "box was too wide."), 0)),
    ("winogrande_m", {**WINO, "answer": "2", "qID": "x-2"}, Question(
        "x-2", "The mug did not fit into the box since the",
        ("mug was too wide.", "box was too wide."), 1)),
    ("winogrande_m", {**WINO, "sentence": "_ is wide."}, Question(
        "_ is wide.", "Sentence:", ("mug is wide.", "box is wide."), 0)),
    ("boolq", BOOL, Question(
        "do geese fly", "Most geese fly.\nQuestion: do geese fly?\nAnswer:", ("no", "yes"), 1)),
    ("boolq", {**BOOL, "answer": False, "id": "7"}, Question(
        "7", "Most geese fly.\nQuestion: do geese fly?\nAnswer:", ("no", "yes"), 0)),
    ("mmlu_college_chemistry", MMLU, Question(
        "Which is a noble gas?", "Question: Which is a noble gas?\nAnswer:",
        ("iron", "neon", "lead", "zinc"), 1)),
    ("mmlu_college_physics", {**MMLU, "answer": 3}, Question(
        "Which is a noble gas?", "Question: Which is a noble gas?\nAnswer:",
        ("iron", "neon", "lead", "zinc"), 3)),
]  # fmt: skip


@pytest.mark.parametrize(("task", "row", "question"), GOLDEN)
def test_rows_become_these_questions(task: str, row: dict[str, Any], question: Question) -> None:
    assert TASKS[task].parse(row) == question


def test_every_task_has_a_golden_question_and_room_for_its_options() -> None:
    assert {task for task, _, _ in GOLDEN} == set(TASKS)
    for task, _, question in GOLDEN:
        assert len(question.options) <= TASKS[task].num_options


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("ai2_arc_easy", arc("E"), r"has the answer 'E', which is none of the options \['A', 'B"),
        ("commonsense_qa", arc(""), "has the answer '', which is none"),
        ("ai2_arc_easy", arc("A", "ABCD", ["x", "y"]), "has 2 options but 4 labels"),
        ("ai2_arc_easy", arc("A", "A"), "has 1 options; a choice needs at least two"),
        ("ai2_arc_easy", arc("A", "AB", ["x", " "]), "has an empty text among"),
        ("mmlu_college_physics", {**MMLU, "answer": 4}, "has the label 4 but 4 options"),
        ("winogrande_s", {**WINO, "sentence": "No gap."}, "has no gap '_' in its sentence"),
        ("winogrande_s", {**WINO, "answer": ""}, "has the answer '', which is neither '1' nor"),
    ],
)
def test_rows_that_are_no_question_are_refused(task: str, row: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TASKS[task].parse(row)


def test_an_answer_that_is_no_truth_value_is_refused() -> None:
    with pytest.raises(TypeError, match="has the answer 'yes', which is neither true nor false"):
        TASKS["boolq"].parse({**BOOL, "answer": "yes"})
