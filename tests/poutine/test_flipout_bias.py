"""A transformer reads all tokens with one weight, so signs per token change its expected loss."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.models import Classifier
from blob_pyro.poutine import flipout

Batch = dict[str, torch.Tensor]
NUM_DRAWS = 2000


@pytest.fixture
def wide_posterior(classifier: Callable[..., Classifier]) -> tuple[Classifier, Any]:
    model = classifier("llama")
    with torch.no_grad():
        # As in a trained network, all tokens have a direction in common, in which a shared weight
        # makes their noise add up.
        model.network.get_input_embeddings().weight += torch.randn(16)
        return model, LowRankGaussianGuide(model, init_scale=0.25)


def losses(program: Any, batch: Batch, handler: AbstractContextManager[Any]) -> torch.Tensor:
    """Sample the negative log likelihood of each example, ``draws x B``; draws independent."""
    model, guide = program
    with torch.no_grad(), pyro.plate("draws", NUM_DRAWS, dim=-2):
        trace = poutine.trace(guide).get_trace()
        with handler:
            logits = poutine.replay(model, trace=trace)(**batch)
    labels = batch["labels"].expand(NUM_DRAWS, -1)[..., None]
    return -logits.log_softmax(dim=-1).gather(-1, labels).squeeze(-1)


def test_expected_loss_is_that_of_the_shared_draw_per_example_only(
    wide_posterior: Any, token_batch: Any, z_scores: Any
) -> None:
    batch = token_batch(rows=4, tokens=12)
    shared = losses(wide_posterior, batch, nullcontext())
    # 4 examples within 4 standard errors: without a bias this fails 1 seed in 4000.  Signs per
    # token were off by 8 to 25 standard errors in 6 seeds.
    assert z_scores(losses(wide_posterior, batch, flipout()), shared).max() < 4
    assert z_scores(losses(wide_posterior, batch, flipout(per="token")), shared).max() > 6
