"""Collators beside those of prompts and options, and who gets which."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from datasets import Dataset

from blob_pyro.tasks import (
    TASKS,
    TEXT_TASKS,
    LetterCollator,
    OptionCollator,
    PromptCollator,
    TextCollator,
    collator_for,
    helpdesk,
    lengths,
)
from blob_pyro.tasks.prompt_tokens import prompt_tokens

QUESTIONS: list[dict[str, Any]] = [
    {"lettered": "the A B", "options": ["x", "y"], "label": 1},
    {"lettered": "my phone is the A B C", "options": ["x", "y", "z"], "label": 2},
]


@pytest.mark.parametrize(
    ("task", "scoring", "kind"),
    [
        (TASKS["boolq"], "options", OptionCollator),
        (TASKS["boolq"], "letters", LetterCollator),
        (helpdesk(), "options", PromptCollator),
        (helpdesk(), "letters", PromptCollator),
        (helpdesk(), "head", TextCollator),
    ],
)
def test_a_task_and_a_way_of_answering_have_one_collator(
    task: Any, scoring: Any, kind: type, tokenizer: Any
) -> None:
    collator = collator_for(task, tokenizer, scoring)
    assert type(collator) is kind
    if isinstance(collator, PromptCollator):
        assert ("A. login" in collator.task.prompt) == (scoring == "letters")


def test_questions_by_letter_say_how_many_options_they_have(tokenizer: Any) -> None:
    batch = LetterCollator(tokenizer)(QUESTIONS)
    assert batch["num_options"].tolist() == [2, 3]
    assert batch["labels"].tolist() == [1, 2]
    assert batch["attention_mask"].tolist() == [[0] * 4 + [1] * 3, [1] * 7]
    assert batch["input_ids"][0, 4:].tolist() == tokenizer("the A B")["input_ids"]


def test_a_long_lettered_question_keeps_its_end(tokenizer: Any) -> None:
    batch = LetterCollator(tokenizer, max_length=2)(QUESTIONS)
    assert batch["input_ids"].tolist() == [tokenizer(x)["input_ids"] for x in ("A B", "B C")]


def test_pairs_go_to_the_tokenizer_as_pairs(tokenizer: Any) -> None:
    examples = [
        {"text": "my phone", "text_pair": "the login is", "label": 1},
        {"text": "the", "text_pair": "password", "label": 0},
    ]
    batch = TextCollator(tokenizer)(examples)
    expected = tokenizer("my phone", "the login is")
    assert batch["input_ids"][0].tolist() == expected["input_ids"]
    assert set(batch) == {*expected, "labels"}
    assert batch["attention_mask"].sum(1).tolist() == [5, 2]
    assert TextCollator(tokenizer, max_length=3)(examples)["input_ids"].shape == (2, 3)
    tokenizer.model_max_length = 2
    assert TextCollator(tokenizer)(examples)["input_ids"].shape == (2, 2)


def test_pairs_fill_a_prompt(tokenizer: Any) -> None:
    example = {"text": "a phone", "text_pair": "the login is", "label": 0}
    batch = PromptCollator(tokenizer, TEXT_TASKS["glue_rte"], max_length=2)([example])
    prompt = TEXT_TASKS["glue_rte"].prompts(["a phone"], ["the login"])[0]
    assert batch["input_ids"][0].tolist() == tokenizer(prompt)["input_ids"]


def test_it_is_tokens_that_make_a_text_long(tokenizer: Any) -> None:
    # Nine characters that are four tokens, and sixteen that are two.
    data = Dataset.from_dict({"text": ["a a a the", "printing printing"], "label": [0, 1]})
    assert TextCollator(tokenizer).loader(data).sampler.order == [0, 1]


def test_tokenised_data_are_as_long_as_their_tokens() -> None:
    rows = {"input_ids": [[5, 6, 7], [8]], "text": ["a b c", "internationalisation"]}
    assert lengths(Dataset.from_dict(rows)) == [3, 1]
    message = r"the columns \['tokens'\]; add one of \['input_ids', 'text', "
    with pytest.raises(ValueError, match=message):
        lengths(Dataset.from_dict({"tokens": [[5]]}))


def test_loaders_read_the_longest_first_and_know_the_order(tokenizer: Any) -> None:
    texts = ["the", "my phone is the login", "the printing", "the login"]
    data = Dataset.from_dict({"text": texts, "label": [0, 1, 2, 3]})
    loader = TextCollator(tokenizer).loader(data, batch_size=2)
    assert lengths(data) == [3, 21, 12, 9]
    assert loader.sampler.order == [1, 2, 3, 0]
    assert len(loader.sampler) == 4
    assert torch.cat([batch["labels"] for batch in loader]).tolist() == loader.sampler.order


def test_a_tokenizer_that_two_threads_share_cuts_as_each_asks(tokenizer: Any) -> None:
    """Both set how it cuts, the one before the other has used it."""
    texts = ["the printing problem " * 100] * 20
    cutting, done = TextCollator(tokenizer, 16), threading.Event()
    expected = prompt_tokens(tokenizer, texts)

    def cut() -> None:
        while not done.is_set():
            assert cutting([{"text": text} for text in texts])["input_ids"].shape == (20, 16)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(cut)
        try:
            for _ in range(30):
                assert prompt_tokens(tokenizer, texts) == expected
        finally:
            done.set()
        other.result()
