"""What is fitted to, and what is kept to stop by or to calibrate on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from blob_pyro import fine_tune
from blob_pyro.networks import load_causal_lm
from blob_pyro.recipe import SMALL, Recipe, run
from blob_pyro.tasks import TextClassificationTask, helpdesk

STOPPED = SMALL.changed(validate_every=5)
CALIBRATED = SMALL.changed(method="temperature")


def own(size: int) -> TextClassificationTask:
    rows = {"text": [f"t{i}" for i in range(size)], "label": [i % 2 for i in range(size)]}
    return TextClassificationTask(
        "own", DatasetDict(train=Dataset.from_dict(rows)), ("login", "printing")
    )


class FittedError(Exception):
    """Ends a run with the examples that it would be fitted to and stopped by."""


@pytest.fixture
def divided(base_folder: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give the texts to train on and those of validation, without the training."""

    def no_fit(*args: Any, validation: Dataset | None, **_: Any) -> None:
        raise FittedError(args[3], validation)

    monkeypatch.setattr(run, "fit", no_fit)

    def divide(task: TextClassificationTask, recipe: Recipe, **options: Any) -> Any:
        network = load_causal_lm(base_folder)
        with pytest.raises(FittedError) as caught:
            fine_tune(task, network, tokenizer=tokenizer, recipe=recipe, progress=False, **options)
        return [part and list(part["text"]) for part in caught.value.args]

    return divide


def test_the_tasks_own_validation_split_is_taken(divided: Any) -> None:
    train, validation = divided(helpdesk(), STOPPED)
    assert len(train) == 250
    assert validation == list(helpdesk().splits["validation"]["text"])


@pytest.mark.parametrize(("share", "size"), [(0.25, 5), (None, 4)])
def test_a_share_of_the_training_data_is_held_out(
    share: float | None, size: int, divided: Any
) -> None:
    train, validation = divided(own(20), STOPPED, validation=share)
    assert len(validation) == size
    assert sorted(train + validation) == sorted(f"t{i}" for i in range(20))
    assert divided(own(20), STOPPED, validation=share)[1] == validation
    # The start of a method that calibrates sees the rest, and is not stopped by them.
    if share is not None:
        assert divided(own(20), CALIBRATED, validation=share) == [train, None]


def test_nothing_is_held_out_that_nothing_asks_for(divided: Any) -> None:
    train, validation = divided(helpdesk(), SMALL)
    assert (len(train), validation) == (250, None)


@pytest.mark.parametrize(
    ("settings", "size", "share", "message"),
    [
        (STOPPED, 9, 1.0, r"validation=1.0 \(--validation-fraction\) must lie between 0 and 1"),
        (STOPPED, 9, 1, r"validation=1 \(--validation-fraction\) must lie between 0 and 1"),
        (SMALL, 9, 0.2, "that the method 'blob' would not use; set validate_every too"),
        (STOPPED, 1, 0.2, "own has 1 training example, too few to hold some out"),
    ],
)
def test_a_share_that_does_not_fit_is_refused(
    settings: Recipe, size: int, share: float, message: str, base_folder: str, tokenizer: Any
) -> None:
    task = replace(own(2), splits={"train": own(size).splits["train"]})
    with pytest.raises(ValueError, match=message):
        fine_tune(
            task,
            load_causal_lm(base_folder),
            tokenizer=tokenizer,
            recipe=settings,
            validation=share,
            progress=False,
        )
