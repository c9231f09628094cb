from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from blob_pyro.tasks import TextClassificationTask

NAMES = ("login", "printing")
TRAIN = Dataset.from_dict({"text": [*"abcdef"], "label": [0, 1] * 3})
TASK = TextClassificationTask("t", DatasetDict(train=TRAIN), NAMES)


def test_a_subset_of_texts_is_decided_by_its_seed() -> None:
    first, again, other = (TASK.load("train", limit=4, seed=seed) for seed in (1, 1, 2))
    assert first.data.to_dict() == again.data.to_dict()
    assert list(first.data["text"]) != list(other.data["text"])
    assert str(first) == "4 of 6 rows"
    assert [TRAIN["text"][int(name)] for name in first.data["id"]] == list(first.data["text"])


def test_texts_may_hold_each_others_fields() -> None:
    task = TextClassificationTask("t", DatasetDict(), NAMES, "{text} + {text_pair}:")
    assert task.prompts(["{text_pair}"], ["{text}"]) == ["{text_pair} + {text}:"]


def test_words_and_letters_answer_in_place_of_names() -> None:
    task = TextClassificationTask("t", DatasetDict(), ("no toner", "locked"), "{text}\nAnswer:")
    assert task.answers == ("no toner", "locked")
    lettered = task.lettered()
    assert lettered.answers == ("A", "B")
    assert lettered.prompts(["x"]) == ["x\nA. no toner\nB. locked\nAnswer:"]
    worded = TextClassificationTask("t", DatasetDict(), NAMES, words=("no", "yes"))
    assert worded.answers == ("no", "yes")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_names": ("one",)}, "needs at least two different labels"),
        ({"words": ("a",)}, "has 1 words, 2 classes"),
        ({"prompt": "x"}, "prompt 'x' has no field {text}"),
        # A head would read the second texts, a prompt would not.
        (
            {"splits": {"train": Dataset.from_dict({"text": ["a"], "text_pair": ["b"]})}},
            "has no field {text_pair}, which the splits .'train'. have",
        ),
    ],
)
def test_impossible_tasks_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextClassificationTask(**{"name": "t", "splits": DatasetDict(), "class_names": NAMES,
                                  **arguments})  # fmt: skip
