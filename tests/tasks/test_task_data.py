from __future__ import annotations

import math
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from blob_pyro.recipe import Recipe, run_recipe
from blob_pyro.tasks import TextClassificationTask
from blob_pyro.tasks.task_data import check_labels

NAMES = ("login", "printing", "phone")
TEXTS = ["a", "b", "c"]


def named(names: list[str]) -> Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    return Dataset.from_dict({"text": TEXTS, "label": [0, 1, 2]}, features=features)


@pytest.mark.parametrize("names", [[*NAMES], ["Login", "printing", "phone"], ["x", "y", "z"]])
def test_names_in_the_tasks_order_are_taken(names: list[str]) -> None:
    check_labels(named(names), NAMES)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ([0.0, 1.0, 2.0], "row 0 has the label 0.0"),
        ([0, 1, None], "row 2 has the label None"),
        ([0.0, math.nan, 1.0], "row 0 has the label 0.0"),
        ([True, False, True], "row 0 has the label True"),
        (["0", "1", "2"], "row 0 has the label '0'"),
        ([0, 3, 1], "row 1 has the label 3"),
        ([0, 1, -1], "row 2 has the label -1"),
        ([[0], [1], [2]], r"row 0 has the label \[0\]"),
    ],
)
def test_what_is_no_class_is_refused_before_anything_is_loaded(labels: Any, found: str) -> None:
    good, bad = named([*NAMES]), Dataset.from_dict({"text": TEXTS, "label": labels})
    task: Any = TextClassificationTask("t", DatasetDict(), NAMES)
    network: Any = None
    for data, validation in ((bad, None), (good, bad)):
        with pytest.raises(ValueError, match=f"{found}; a whole number from 0 to 2 is needed"):
            run_recipe(Recipe(), network, network, task, data, validation=validation)


@pytest.mark.parametrize(
    "names", [["printing", "login", "phone"], ["PHONE", "other", "login"], ["a", "b", "c", "login"]]
)
def test_names_in_another_order_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"label \d is .* but the task's class \d is .*; give the"):
        check_labels(named(names), NAMES)


def test_a_question_offers_its_own_options() -> None:
    rows = {"options": [["a", "b"], ["a", "b", "c"]], "label": [1, 2]}
    check_labels(Dataset.from_dict(rows))
    with pytest.raises(ValueError, match="row 0 has the label 2; a whole number from 0 to 1 is"):
        check_labels(Dataset.from_dict({**rows, "label": [2, 2]}))
    with pytest.raises(ValueError, match=r"have the columns \['options'\]; a column label is n"):
        check_labels(Dataset.from_dict({"options": rows["options"]}))
