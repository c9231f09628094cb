"""From prompts and responses to rows whose prompts are masked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from blob_pyro.tasks.collator import padded

_IGNORED = -100


class InstructionCollator:
    """Turn prompts and responses into the batch of :class:`blob_pyro.models.CausalLM`.

    A response ends with the tokenizer's end of sequence, so that the model learns to stop.  An
    example too long for ``max_length`` loses the beginning of its prompt, then the end of its
    response.

    Parameters
    ----------
    tokenizer
        Tokenizer with a padding token and an end of sequence.
    max_length
        Most tokens of an example.

    Raises
    ------
    ValueError
        If the tokenizer lacks one of these tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int = 512) -> None:
        if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
            raise ValueError(
                "the tokenizer has no padding token or no end of sequence; set "
                "tokenizer.eos_token and tokenizer.pad_token"
            )
        self.tokenizer = tokenizer
        self.max_length = max_length

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate examples with ``prompt`` and ``response``.

        Returns
        -------
        dict
            ``input_ids``, ``attention_mask`` and ``labels`` (-100 but for the response), each
            ``B x T``, int64, padded on the right.
        """
        rows = [self._tokens(example["prompt"], example["response"]) for example in examples]
        input_ids, mask = padded([[*prompt, *rest] for prompt, rest in rows], self._pad)
        labels, _ = padded([[*[_IGNORED] * len(prompt), *rest] for prompt, rest in rows], _IGNORED)
        return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}

    @property
    def _pad(self) -> int:
        return int(self.tokenizer.pad_token_id)

    def _tokens(self, prompt: str, response: str) -> tuple[list[int], list[int]]:
        before: list[int] = self.tokenizer(prompt)["input_ids"]
        after: list[int] = self.tokenizer(response, add_special_tokens=False)["input_ids"]
        after = [*after, self.tokenizer.eos_token_id][: self.max_length - 1]
        room = self.max_length - len(after)
        return before[-room:], after
