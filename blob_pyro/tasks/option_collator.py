"""From questions to rows that hold a prompt and all its options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from typing_extensions import override

from blob_pyro.tasks.collator import Batch, Collator, padded


class OptionCollator(Collator):
    """Turn questions into the batch of :class:`blob_pyro.models.OptionLikelihood`.

    A prompt too long for ``max_length`` loses its beginning, since the question stands at its end.

    Parameters
    ----------
    tokenizer
        Tokenizer with a padding token.
    max_length
        Most tokens of a prompt.

    Raises
    ------
    ValueError
        If the tokenizer has no padding token.
    """

    @override
    def __call__(self, examples: Sequence[dict[str, Any]]) -> Batch:
        """Collate examples with ``prompt``, ``options`` and ``label``.

        Returns
        -------
        dict
            ``input_ids`` and ``attention_mask`` (``B x T``), ``option_ids`` (``B x S``, of the last
            S columns) and ``labels`` (``B``), all int64.  Rows are padded on the left.
        """
        prompts = [self._prompt_tokens(example["prompt"]) for example in examples]
        options = [self._option_tokens(example["options"]) for example in examples]
        owners = [
            [k for k, tokens in enumerate(texts, start=1) for _ in tokens] for texts in options
        ]
        # Nothing pads between prompt and options: a row is as long as its tokens are many.
        rows = [
            [*prompt, *(token for tokens in texts for token in tokens)]
            for prompt, texts in zip(prompts, options, strict=True)
        ]
        input_ids, mask = padded(rows, self.tokenizer.pad_token_id, on_left=True)
        return {
            "input_ids": input_ids,
            "attention_mask": mask,
            "option_ids": padded(owners, 0, on_left=True)[0],
            "labels": torch.tensor([example["label"] for example in examples]),
        }

    def _prompt_tokens(self, prompt: str) -> list[int]:
        tokens: list[int] = self.tokenizer(prompt)["input_ids"]
        return tokens[-self.max_length :]

    def _option_tokens(self, options: Sequence[str]) -> list[list[int]]:
        texts = [f" {option}" for option in options]
        tokens: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return tokens
