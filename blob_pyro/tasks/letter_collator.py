"""From questions with their options listed by letter to the tensors of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from typing_extensions import override

from blob_pyro.tasks.collator import Batch, Collator, padded


class LetterCollator(Collator):
    """Turn questions into the batch of :class:`blob_pyro.models.LabelTokenClassifier`.

    A prompt too long for ``max_length`` loses its beginning, since question and options stand at
    its end.

    Parameters
    ----------
    tokenizer
        Tokenizer with a padding token.
    max_length
        Most tokens of a prompt, options included.

    Raises
    ------
    ValueError
        If the tokenizer has no padding token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int = 512) -> None:
        super().__init__(tokenizer, max_length)

    @override
    def __call__(self, examples: Sequence[dict[str, Any]]) -> Batch:
        """Collate examples with ``lettered``, ``options`` and ``label``.

        Returns
        -------
        dict
            ``input_ids`` and ``attention_mask`` (``B x T``), ``num_options`` and ``labels``
            (``B``), all int64.
        """
        texts = [example["lettered"] for example in examples]
        rows = [tokens[-self.max_length :] for tokens in self.tokenizer(texts)["input_ids"]]
        input_ids, mask = padded(rows, self.tokenizer.pad_token_id, on_left=True)
        return {
            "input_ids": input_ids,
            "attention_mask": mask,
            "num_options": torch.tensor([len(example["options"]) for example in examples]),
            "labels": torch.tensor([example["label"] for example in examples]),
        }
