"""The tokens by which a causal language model names a class."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

# Some tokenizers mark the beginning of a text, so a label's token shows only behind another word.
_BEFORE = "Answer:"
_WAY_OUT = (
    "choose other labels, or answer by letter, which lists the labels in the prompt "
    '(scoring="letters", on the command line --set scoring=letters)'
)


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
    before = tokenizer(_BEFORE, add_special_tokens=False)["input_ids"]
    both = tokenizer(f"{_BEFORE} {label}", add_special_tokens=False)["input_ids"]
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
