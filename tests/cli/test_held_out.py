from __future__ import annotations

from dataclasses import replace

import pytest
from datasets import Dataset, DatasetDict

from blob_pyro.cli.data import Selection, training_and_validation
from blob_pyro.recipe import SMALL, Recipe
from blob_pyro.tasks import TextClassificationTask, helpdesk

STOPPED = SMALL.changed(validate_every=5)
ALL = Selection(None, None, 3, False)


def own(size: int) -> TextClassificationTask:
    data = Dataset.from_dict({"text": [f"t{i}" for i in range(size)], "label": [0] * size})
    return TextClassificationTask("own", DatasetDict(train=data), ("a", "b"))


def test_the_tasks_own_validation_split_is_read_whole() -> None:
    train, validation = training_and_validation(
        helpdesk(), replace(ALL, limit=20), STOPPED, fraction=None
    )
    assert validation is not None
    assert (len(train), len(validation)) == (20, 100)
    assert set(validation["text"]) == set(helpdesk().splits["validation"]["text"])


@pytest.mark.parametrize("settings", [STOPPED, SMALL.changed(method="temperature")])
def test_a_share_of_the_training_data_is_held_out(settings: Recipe) -> None:
    train, validation = training_and_validation(own(20), ALL, settings, 0.25)
    assert validation is not None
    assert (len(train), len(validation)) == (15, 5)
    assert {*train["text"], *validation["text"]} == {f"t{i}" for i in range(20)}
    again = training_and_validation(own(20), ALL, settings, 0.25)[1]
    assert again is not None
    assert list(again["text"]) == list(validation["text"])


def test_nothing_is_held_out_that_nothing_asks_for() -> None:
    train, validation = training_and_validation(helpdesk(), ALL, SMALL, None)
    assert (len(train), validation) == (250, None)
    train, validation = training_and_validation(own(9), ALL, STOPPED, None)
    assert (len(train), validation) == (9, None)


@pytest.mark.parametrize(
    ("settings", "size", "fraction", "message"),
    [
        (STOPPED, 9, 1.0, "--validation-fraction 1.0 must lie between 0 and 1"),
        (SMALL, 9, 0.2, "that the method 'blob' would not use; set validate_every too"),
        (STOPPED, 1, 0.2, "own has 1 training example, too few to hold some out"),
    ],
)
def test_a_fraction_that_does_not_fit_is_refused(
    settings: Recipe, size: int, fraction: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        training_and_validation(own(size), ALL, settings, fraction)
