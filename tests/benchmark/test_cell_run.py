from __future__ import annotations

import time

import torch

from blob_pyro.benchmark import extra_parameters, measured
from blob_pyro.guides import LowRankGaussianGuide, PointEstimateGuide


def test_time_and_peak_are_those_of_the_body_alone() -> None:
    with measured() as small:
        time.sleep(0.02)
    with measured() as large:
        block = torch.ones(40_000_000)  # 160 MB
        del block
    with measured() as after:
        pass
    assert small.seconds >= 0.02
    assert large.peak_bytes > small.peak_bytes + 1.4e8
    assert after.peak_bytes < large.peak_bytes - 1e8
    assert after.seconds < 0.02


def test_extra_parameters_are_counted_from_plain_lora(classifier: object) -> None:
    model = classifier("llama")  # type: ignore[operator]
    assert extra_parameters(model, PointEstimateGuide(model)) == 0
    entries = sum(site.projection.initial_weight.numel() for site in model.sites.values())
    assert extra_parameters(model, LowRankGaussianGuide(model)) == entries
