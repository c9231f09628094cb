"""A fitted-looking program over a tiny Llama, and one batch for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import posterior_predictive

Program = tuple[Any, LowRankGaussianGuide]


@pytest.fixture
def inputs(token_batch: Any) -> dict[str, torch.Tensor]:
    batch = token_batch()
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


@pytest.fixture
def program(classifier: Any) -> Callable[..., Program]:
    """Make a model and a wide posterior; its network is in evaluation mode."""

    def make(**options: Any) -> Program:
        model = classifier("llama", **options).eval()
        return model, LowRankGaussianGuide(model, init_scale=0.49)

    return make


@pytest.fixture
def predict(inputs: dict[str, torch.Tensor]) -> Callable[..., torch.Tensor]:
    def logits(model: Any, guide: Any, num_samples: int, seed: int = 0) -> torch.Tensor:
        return posterior_predictive(model, guide, [inputs], num_samples, seed, progress=False)[
            "logits"
        ]

    return logits
