from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any

import pytest

from blob_pyro.tasks import TASKS, TEXT_TASKS, find_task, helpdesk, reviews


def arc(key: str, labels: str = "ABCD", texts: Any = None, **row: Any) -> dict[str, Any]:
    texts = texts or [f" thing {label} " for label in labels]
    choices = {"text": texts, "label": [*labels]}
    return {"id": "q1", "question": "What melts?", "choices": choices, "answerKey": key, **row}


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


@pytest.mark.parametrize(
    ("task", "row", "name"),
    [
        ("winogrande_s", WINO, WINO["sentence"]),
        ("winogrande_m", {**WINO, "qID": "x-2"}, "x-2"),
        ("boolq", BOOL, "do geese fly"),
        ("boolq", {**BOOL, "id": "7"}, "7"),
        ("mmlu_college_chemistry", MMLU, "Which is a noble gas?"),
    ],
)
def test_a_data_set_without_ids_has_the_question_for_one(task: str, row: Any, name: str) -> None:
    assert TASKS[task].parse(row).id == name


def test_every_question_has_room_for_its_options_and_an_answer_for_each() -> None:
    assert TASKS["ai2_arc_easy"].answers == ("A", "B", "C", "D", "E")
    assert TASKS["boolq"].answers == ("false", "true")
    for task in TASKS.values():
        assert len(task.answers) == task.num_options


def test_tasks_are_found_by_name() -> None:
    assert find_task("helpdesk").name == "helpdesk"
    assert find_task("glue_cola") is TEXT_TASKS["glue_cola"]
    assert find_task("boolq") is TASKS["boolq"]
    assert not TASKS.keys() & TEXT_TASKS.keys()
    with pytest.raises(
        ValueError, match=r"'rte' is unknown; use openbookqa, .*glue_rte.* mmlu_SUB"
    ):
        find_task("rte")


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("ai2_arc_easy", arc("E"), r"has the answer 'E', which is not among the options \['A', 'B"),
        ("commonsense_qa", arc(""), "has the answer '', which is not among"),
        ("ai2_arc_easy", arc("A", "ABCD", ["x", "y"]), "has 2 options but 4 labels"),
        ("ai2_arc_easy", arc("A", "A"), "has 1 options; a choice needs at least two"),
        ("ai2_arc_easy", arc("A", "AB", ["x", " "]), "has an empty text among"),
        ("mmlu_college_physics", {**MMLU, "answer": 4}, "has the label 4 but 4 options"),
        ("winogrande_s", {**WINO, "sentence": "No gap."}, "has no gap '_' in its sentence"),
        ("winogrande_s", {**WINO, "answer": ""}, "has the answer '', which is neither '1' nor"),
        ("boolq", {**BOOL, "answer": "yes"}, "has the answer 'yes', which is neither true nor"),
    ],
)
def test_rows_that_are_no_question_are_refused(task: str, row: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        TASKS[task].parse(row)


def words(text: str) -> list[str]:
    return text.lower().split()


def test_every_intent_has_25_10_and_20_messages() -> None:
    task = helpdesk()
    assert len(task.class_names) == 10
    for split, count in {"train": 25, "validation": 10, "test": 20}.items():
        assert Counter(task.splits[split]["label"]) == dict.fromkeys(range(10), count)
    assert set(task.splits["out_of_scope"]["label"]) == {-1}


def test_no_message_repeats_or_paraphrases_another_by_template() -> None:
    texts = [text for data in helpdesk().splits.values() for text in data["text"]]
    assert len({text.lower() for text in texts}) == len(texts) == 650
    grams = [set(zip(words(t), words(t)[1:], words(t)[2:], strict=False)) for t in texts]
    closest = max(len(a & b) / len(a | b) for a, b in combinations(grams, 2) if a and b)
    assert closest < 0.3


def test_as_many_reviews_praise_as_complain() -> None:
    splits = reviews().splits
    for split, count in {"train": 64, "validation": 26, "test": 80}.items():
        assert Counter(splits[split]["label"]) == {0: count, 1: count}
    assert Counter(splits["out_of_scope"]["label"]) == {-1: 60}
    texts = [text for data in splits.values() for text in data["text"]]
    assert len({text.lower() for text in texts}) == len(texts) == 400
