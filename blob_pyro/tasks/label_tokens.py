"""The tokens by which a causal language model names a class."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


def label_token_ids(tokenizer: PreTrainedTokenizerBase, class_names: Sequence[str]) -> list[int]:
    """Find one token a class: the first token of its name after a space.

    Parameters
    ----------
    tokenizer
        Tokenizer of the network.
    class_names
        Names of the classes.

    Returns
    -------
    list of int
        Token ids in the order of ``class_names``, all different.

    Raises
    ------
    ValueError
        If two names begin with the same token.
    """
    first: dict[int, str] = {}
    for name in class_names:
        token = tokenizer(f" {name}", add_special_tokens=False)["input_ids"][0]
        if token in first:
            raise ValueError(
                f"the labels {first[token]!r} and {name!r} begin with the same token "
                f"{tokenizer.decode([token])!r}, so the model could not tell them apart; rename one"
            )
        first[token] = name
    return list(first)
