"""The tokens of prompts that a model goes on from, and those that name a class."""

import threading
from collections.abc import Sequence
from typing import Any

from transformers import BatchEncoding, PreTrainedTokenizerBase

# Some tokenizers mark the beginning of a text, so a label's token shows only behind another word.
_BEFORE = "Answer:"
_WAY_OUT = (
    "choose other labels, or answer by letter, which lists the labels in the prompt "
    '(scoring="letters", on the command line --set scoring=letters)'
)


_TURN = threading.Lock()


def tokenized(tokenizer: PreTrainedTokenizerBase, *texts: Any, **options: Any) -> BatchEncoding:
    """Call a tokenizer, one thread at a time.

    How it cuts and pads is a state of a fast tokenizer, which each call sets: two at once would cut
    or pad the one's texts as the other asked.
    """
    with _TURN:
        return tokenizer(*texts, **options)


def prompt_tokens(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_length: int | None = None
) -> list[list[int]]:
    """Tokenise prompts without what a tokenizer appends to a finished text.

    Parameters
    ----------
    tokenizer
        Any tokenizer.  What it puts before a text (a beginning of sequence) stays; what it puts
        behind one (an end of sequence, a separator) goes, since the answer follows.
    prompts
        Texts.
    max_length
        Most tokens of a prompt; a longer one loses the beginning of its text.

    Returns
    -------
    list of list of int
        Token ids, at least one a prompt.

    Raises
    ------
    ValueError
        If a prompt has no token.

    Examples
    --------
    >>> from tokenizers import Tokenizer, models, processors
    >>> from transformers import PreTrainedTokenizerFast
    >>> words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "hello": 2}, unk_token="<s>"))
    >>> words.post_processor = processors.TemplateProcessing(
    ...     single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    >>> prompt_tokens(PreTrainedTokenizerFast(tokenizer_object=words), ["hello"])
    [[0, 2]]
    """
    encoded = tokenized(tokenizer, list(prompts), return_special_tokens_mask=True)
    tokens, masks, rows = encoded["input_ids"], encoded["special_tokens_mask"], []
    for prompt, ids, special in zip(prompts, tokens, masks, strict=True):
        row = _cut(ids, special, max_length) or _beginning(tokenizer, ids)
        if not row:
            raise ValueError(
                f"the prompt {prompt!r} has no token under this tokenizer; give a word or more"
            )
        rows.append(row)
    return rows


def _cut(ids: list[int], special: list[int], max_length: int | None) -> list[int]:
    text = [index for index, mark in enumerate(special) if not mark]
    if not text:
        return []
    start, end = text[0], text[-1] + 1
    if max_length is not None:
        start_of_text = max(start, end - max(max_length - start, 1))
        return [*ids[:start], *ids[start_of_text:end]]
    return ids[:end]


def _beginning(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """Give what stands before an empty text: nothing that ends one."""
    ends = (tokenizer.eos_token_id, tokenizer.sep_token_id)
    return [token for token in ids if token not in ends]


def label_token_ids(tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> list[int]:
    """Find the one token of each label, as it follows a prompt and a space.

    Parameters
    ----------
    tokenizer
        Tokenizer of the network.
    labels
        What the model may answer: names of classes, letters, or words such as true and false.

    Returns
    -------
    list of int
        Token ids in the order of ``labels``, all different.

    Raises
    ------
    ValueError
        If a label takes several tokens, is unknown to the tokenizer, or has the token of another
        one; with the label, its tokens and the way out.
    """
    found: dict[int, str] = {}
    for label in labels:
        token = _token(tokenizer, label)
        if token in found:
            raise ValueError(
                f"the labels {found[token]!r} and {label!r} are the same token "
                f"{tokenizer.decode([token])!r}, so the model could not tell them apart; {_WAY_OUT}"
            )
        found[token] = label
    return list(found)


def _token(tokenizer: PreTrainedTokenizerBase, label: str) -> int:
    before = tokenized(tokenizer, _BEFORE, add_special_tokens=False)["input_ids"]
    both = tokenized(tokenizer, f"{_BEFORE} {label}", add_special_tokens=False)["input_ids"]
    tokens: list[int] = both[len(before) :]
    if len(tokens) != 1 or both[: len(before)] != before:
        pieces = tokenizer.convert_ids_to_tokens(tokens)
        raise ValueError(
            f"the label {label!r} is {len(tokens)} tokens ({pieces}) and not one, so the model's "
            f"next token cannot name it; {_WAY_OUT}"
        )
    if tokens[0] == tokenizer.unk_token_id:
        raise ValueError(f"the tokenizer does not know the label {label!r}; {_WAY_OUT}")
    return tokens[0]
