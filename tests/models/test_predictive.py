"""``pyro.infer.Predictive`` on the models, one draw at a time and all at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive

from blob_pyro.guides import LowRankGaussianGuide, PointEstimateGuide

NUM_SAMPLES = 5


@pytest.fixture
def text(padded_batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: padded_batch[name] for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("guide_class", [LowRankGaussianGuide, PointEstimateGuide])
def test_logits_are_draws_by_rows_by_classes(
    guide_class: Any, parallel: bool, architecture: tuple[str, str], classifier: Any, text: Any
) -> None:
    model = classifier(*architecture)
    predictive = Predictive(
        model,
        guide=guide_class(model),
        num_samples=NUM_SAMPLES,
        return_sites=("logits",),
        parallel=parallel,
    )
    assert predictive(**text)["logits"].shape == (NUM_SAMPLES, 4, 3)


def test_all_at_once_equals_one_at_a_time(
    architecture: tuple[str, str], classifier: Any, text: Any
) -> None:
    model = classifier(*architecture)
    guide = LowRankGaussianGuide(model, init_scale=0.49)
    draws = [poutine.trace(guide).get_trace() for _ in range(NUM_SAMPLES)]
    samples = {
        name: torch.stack([draw.nodes[name]["value"] for draw in draws]).detach()
        for name in model.sites
    }
    parallel, sequential = (
        Predictive(model, samples, return_sites=("logits",), parallel=parallel)(**text)["logits"]
        for parallel in (True, False)
    )
    torch.testing.assert_close(parallel, sequential, atol=1e-5, rtol=1e-4)
    by_hand = torch.stack([poutine.replay(model, trace=draw)(**text) for draw in draws])
    torch.testing.assert_close(sequential, by_hand)
    assert by_hand.std(dim=0).min() > 1e-3


@pytest.mark.parametrize("parallel", [False, True])
def test_labels_are_sampled_from_the_logits(
    parallel: bool, classifier: Any, text: Any, z_score: Any
) -> None:
    # 12 mean probabilities (4 texts, 3 classes) within 4 standard errors: fails 1 seed in 1300.
    model = classifier("llama")
    predictive = Predictive(
        model,
        guide=LowRankGaussianGuide(model),
        num_samples=200,
        return_sites=("logits", "labels"),
        parallel=parallel,
    )
    sample = predictive(**text)
    one_hot = torch.nn.functional.one_hot(sample["labels"].reshape(200, 4), 3)
    assert z_score(one_hot - sample["logits"].reshape(200, 4, 3).softmax(-1), 0.0) < 4
