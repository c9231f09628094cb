"""Batches padded on either side, and label tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from blob_pyro.models import Classifier, LabelTokenClassifier

Batch = dict[str, torch.Tensor]


@pytest.fixture(params=["right", "left"])
def padded_batch(request: pytest.FixtureRequest, token_batch: Any) -> Batch:
    """The same texts, padded on the right or on the left."""
    batch: Batch = token_batch()
    if request.param == "right":
        return batch
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    for name in ("input_ids", "attention_mask"):
        rows = zip(batch[name], lengths, strict=True)
        batch[name] = torch.stack([torch.cat([row[n:], row[:n]]) for row, n in rows])
    return batch


@pytest.fixture
def label_tokens() -> Callable[[Classifier], list[int] | None]:
    """The label tokens of a model, None for one with a head."""

    def tokens(model: Classifier) -> list[int] | None:
        return [*model.label_token_ids] if isinstance(model, LabelTokenClassifier) else None

    return tokens
