"""From questions to rows that hold a prompt and all its options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from blob_pyro.tasks.padded import padded

Batch = dict[str, torch.Tensor]


class OptionCollator:
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

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int = 256) -> None:
        if tokenizer.pad_token_id is None:
            raise ValueError(
                "the tokenizer has no padding token; set tokenizer.pad_token = tokenizer.eos_token"
            )
        self.tokenizer = tokenizer
        self.max_length = max_length

    def __call__(self, examples: Sequence[dict[str, Any]]) -> Batch:
        """Collate examples with ``prompt``, ``options`` and ``label``.

        Returns
        -------
        dict
            ``input_ids`` and ``attention_mask`` (``B x (P + S)``), ``option_ids`` (``B x S``) and
            ``labels`` (``B``), all int64.
        """
        prompts = [self._prompt_tokens(example["prompt"]) for example in examples]
        options = [self._option_tokens(example["options"]) for example in examples]
        owners = [
            [k for k, tokens in enumerate(texts, start=1) for _ in tokens] for texts in options
        ]
        flat = [[token for tokens in texts for token in tokens] for texts in options]
        left, left_mask = padded(prompts, self.tokenizer.pad_token_id, on_left=True)
        right, right_mask = padded(flat, self.tokenizer.pad_token_id)
        return {
            "input_ids": torch.cat([left, right], dim=1),
            "attention_mask": torch.cat([left_mask, right_mask], dim=1),
            "option_ids": padded(owners, 0)[0],
            "labels": torch.tensor([example["label"] for example in examples]),
        }

    def _prompt_tokens(self, prompt: str) -> list[int]:
        tokens: list[int] = self.tokenizer(prompt)["input_ids"]
        return tokens[-self.max_length :]

    def _option_tokens(self, options: Sequence[str]) -> list[list[int]]:
        texts = [f" {option}" for option in options]
        tokens: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return tokens

    def loader(self, data: Dataset, batch_size: int = 16) -> DataLoader[Any]:
        """Make a loader in the data set's own order, for prediction."""
        return DataLoader(data, batch_size=batch_size, collate_fn=self)
