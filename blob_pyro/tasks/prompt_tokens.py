"""The tokens of prompts that a model is to go on from."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


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
    encoded = tokenizer(list(prompts), return_special_tokens_mask=True)
    rows = []
    for prompt, ids, special in zip(
        prompts, encoded["input_ids"], encoded["special_tokens_mask"], strict=True
    ):
        row = _cut(ids, special, max_length) or _beginning(tokenizer, ids)
        if not row:
            raise ValueError(
                f"the prompt {prompt!r} has no token under this tokenizer, so nothing predicts the "
                "answer's first; give a prompt of a word or more"
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
