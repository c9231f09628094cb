"""From prompts to the tensors of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from blob_pyro.tasks.text_classification import TextClassificationTask

Batch = dict[str, torch.Tensor]


class PromptCollator:
    """Turn examples into a padded Hugging Face batch.

    A text too long for ``max_length`` is cut at its end, never the prompt around it.

    Parameters
    ----------
    tokenizer
        Tokenizer with a padding token.
    task
        The task that gives the prompt.
    max_length
        Most tokens that a text may take, the prompt's own not counted.

    Raises
    ------
    ValueError
        If the tokenizer has no padding token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        task: TextClassificationTask,
        max_length: int = 256,
    ) -> None:
        if tokenizer.pad_token is None:
            raise ValueError(
                "the tokenizer has no padding token; set tokenizer.pad_token = tokenizer.eos_token"
            )
        self.tokenizer = tokenizer
        self.task = task
        self.max_length = max_length

    def __call__(self, examples: Sequence[dict[str, Any]]) -> Batch:
        """Collate examples with ``text`` and, unless a label is -1, ``label``.

        Returns
        -------
        dict
            ``input_ids`` and ``attention_mask`` (``B x T``, int64) and ``labels`` (``B``, int64).
        """
        prompts = self.task.prompts([self._cut(example["text"]) for example in examples])
        batch = dict(self.tokenizer(prompts, padding=True, return_tensors="pt"))
        batch = {name: batch[name] for name in ("input_ids", "attention_mask")}
        labels = [example.get("label", -1) for example in examples]
        if min(labels) >= 0:
            batch["labels"] = torch.tensor(labels)
        return batch

    def _cut(self, text: str) -> str:
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        offsets = encoding["offset_mapping"]
        return text if len(offsets) <= self.max_length else text[: offsets[self.max_length - 1][1]]

    def loader(self, data: Dataset, batch_size: int = 16) -> DataLoader[Any]:
        """Make a loader in the data set's own order, for prediction."""
        return DataLoader(data, batch_size=batch_size, collate_fn=self)
