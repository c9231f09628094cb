"""From texts, or pairs of texts, to the batch of a network with a classification head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from blob_pyro.tasks.collator import Batch, Collator, with_labels


class TextCollator(Collator):
    """Turn texts into the batch of :class:`blob_pyro.models.SequenceClassifier`.

    The texts stand alone, without a prompt; the tokenizer joins a pair in the architecture's own
    way.  Too long a pair loses the end of its longer text.

    Parameters
    ----------
    tokenizer
        Tokenizer with a padding token.
    max_length
        Most tokens of a row.  The tokenizer's own limit holds where it is lower.

    Raises
    ------
    ValueError
        If the tokenizer has no padding token.
    """

    @override
    def __call__(self, examples: Sequence[dict[str, Any]]) -> Batch:
        """Collate examples with ``text``, perhaps ``text_pair`` and, unless it is -1, ``label``.

        Returns
        -------
        dict
            What the network reads of the texts (``input_ids``, ``attention_mask``, perhaps
            ``token_type_ids``: ``B x T``, int64) and ``labels`` (``B``, int64).
        """
        pairs = "text_pair" in examples[0]
        batch = self.tokenizer(
            [example["text"] for example in examples],
            [example["text_pair"] for example in examples] if pairs else None,
            padding=True,
            truncation=True,
            max_length=min(self.max_length, self.tokenizer.model_max_length),
            return_tensors="pt",
        )
        return with_labels(dict(batch), examples)
