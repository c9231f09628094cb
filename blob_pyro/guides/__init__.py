"""Posterior approximations over LoRA weights, one a file."""

from blob_pyro.guides.lora_guide import LoraGuide
from blob_pyro.guides.low_rank_gaussian import LowRankGaussianGuide
from blob_pyro.guides.point_estimate import PointEstimateGuide

__all__ = [
    # base
    "LoraGuide",
    # guides
    "LowRankGaussianGuide",
    "PointEstimateGuide",
]
