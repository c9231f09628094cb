"""Posterior approximations over LoRA weights."""

from blob_pyro.guides.correlated import (
    FullCovarianceGuide,
    LowRankPlusDiagonalGuide,
    MatrixNormalGuide,
)
from blob_pyro.guides.dropout import DropoutGuide
from blob_pyro.guides.ensemble import EnsembleGuide
from blob_pyro.guides.laplace import LaplaceGuide, LaplacePredictive, linearised_logits
from blob_pyro.guides.lora_guide import LoraGuide
from blob_pyro.guides.low_rank_gaussian import LowRankGaussianGuide
from blob_pyro.guides.model_at_mean import model_at_mean
from blob_pyro.guides.point_estimate import DirichletGuide, PointEstimateGuide
from blob_pyro.guides.scalabl import ScalaBLGuide
from blob_pyro.guides.site_parameters import SiteParameters
from blob_pyro.guides.swag import SWAGGuide
from blob_pyro.guides.tfb import TFBGuide

__all__ = [
    # verbs
    "linearised_logits",
    "model_at_mean",
    # for a guide of your own
    "LoraGuide",
    "SiteParameters",
    # guides
    "DirichletGuide",
    "DropoutGuide",
    "EnsembleGuide",
    "FullCovarianceGuide",
    "LaplaceGuide",
    "LaplacePredictive",
    "LowRankGaussianGuide",
    "LowRankPlusDiagonalGuide",
    "MatrixNormalGuide",
    "PointEstimateGuide",
    "SWAGGuide",
    "ScalaBLGuide",
    "TFBGuide",
]
