"""Prompts under tokenizers that begin and end texts."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import DatasetDict
from tokenizers.processors import TemplateProcessing

from blob_pyro.tasks import OptionCollator, PromptCollator, TextClassificationTask
from blob_pyro.tasks.collators import InstructionCollator, LetterCollator
from blob_pyro.tasks.prompt_tokens import prompt_tokens

TASK = TextClassificationTask("t", DatasetDict(), ("login", "printing"), "{text} is about the")
TEMPLATES = {"none": "$A", "end": "$A </s>", "both": "<s> $A </s>", "begin": "<s> $A"}


@pytest.fixture(params=TEMPLATES)
def ending(request: Any, tokenizer: Any) -> tuple[Any, list[int]]:
    """A tokenizer, and what it puts before a text."""
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    specials = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "</s>")]
    template = TEMPLATES[request.param]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=specials
    )
    return tokenizer, [specials[0][1]] * template.startswith("<s>")


def test_a_prompt_keeps_what_begins_it_and_loses_what_ends_it(ending: Any) -> None:
    tokenizer, begin = ending
    text = "my login is locked"
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert prompt_tokens(tokenizer, [text, "my"]) == [begin + plain, begin + plain[:1]]
    # Cut at its beginning, but for the token that begins every text.
    assert prompt_tokens(tokenizer, [text], 3) == [begin + plain[len(begin) - 3 :]]
    # An end that the user wrote is part of the prompt.
    end = tokenizer.eos_token_id
    assert prompt_tokens(tokenizer, [f"{text} </s>"]) == [[*begin, *plain, end]]


def test_no_end_stands_between_prompt_and_answer(ending: Any) -> None:
    tokenizer, begin = ending
    (prompt,) = prompt_tokens(tokenizer, ["the login is about the"])
    words = tokenizer("printing", add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    example = {
        "text": "the login", "prompt": "the login is about the", "options": ["printing"],
        "lettered": "the login is about the", "response": "printing", "label": 0,
    }  # fmt: skip
    read = PromptCollator(tokenizer, TASK)([example])["input_ids"][0].tolist()
    assert read == LetterCollator(tokenizer)([example])["input_ids"][0].tolist() == prompt
    assert prompt[: len(begin)] == begin
    assert OptionCollator(tokenizer)([example])["input_ids"][0].tolist() == prompt + words
    written = InstructionCollator(tokenizer)([example])
    assert written["input_ids"][0].tolist() == [*prompt, *words, end]
    assert written["labels"][0].tolist() == [-100] * len(prompt) + [*words, end]


def test_an_empty_prompt_is_refused_unless_something_begins_it(ending: Any) -> None:
    tokenizer, begin = ending
    if begin:
        assert prompt_tokens(tokenizer, [""]) == [begin]
        return
    with pytest.raises(ValueError, match="the prompt '' has no token under this tokenizer"):
        prompt_tokens(tokenizer, [""])
    with pytest.raises(ValueError, match="the prompt '' has no token under this tokenizer"):
        InstructionCollator(tokenizer)([{"prompt": "", "response": "my login"}])
