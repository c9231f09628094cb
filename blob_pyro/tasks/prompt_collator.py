"""From texts in a prompt to the tensors of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from typing_extensions import override

from blob_pyro.tasks.collator import Batch, Collator, with_labels
from blob_pyro.tasks.text_classification import TextClassificationTask


class PromptCollator(Collator):
    """Turn texts into a padded Hugging Face batch for a causal LM.

    A text too long for ``max_length`` is cut at its end, never the prompt around it.

    Parameters
    ----------
    tokenizer
        Tokenizer with a padding token.
    task
        The task that gives the prompt.
    max_length
        Most tokens that a text may take, the prompt's own not counted; each text of a pair.

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
        super().__init__(tokenizer, max_length)
        self.task = task

    @override
    def __call__(self, examples: Sequence[dict[str, Any]]) -> Batch:
        """Collate examples with ``text``, perhaps ``text_pair`` and, unless it is -1, ``label``.

        Returns
        -------
        dict
            ``input_ids`` and ``attention_mask`` (``B x T``, int64) and ``labels`` (``B``, int64).
        """
        texts = [self._cut(example["text"]) for example in examples]
        pairs = [self._cut(example.get("text_pair", "")) for example in examples]
        prompts = self.task.prompts(texts, pairs)
        batch = dict(self.tokenizer(prompts, padding=True, return_tensors="pt"))
        kept = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return with_labels(kept, examples)

    def _cut(self, text: str) -> str:
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        offsets = encoding["offset_mapping"]
        return text if len(offsets) <= self.max_length else text[: offsets[self.max_length - 1][1]]
