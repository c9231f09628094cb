"""Distributions that Pyro lacks: matrices with correlated entries, and labelled tokens."""

from blob_pyro.distributions.column_dropout import ColumnDropout
from blob_pyro.distributions.labelled_tokens import LabelledTokens
from blob_pyro.distributions.low_rank_normal import LowRankNormal
from blob_pyro.distributions.matrix_gaussians import (
    KroneckerPrecisionNormal,
    MatrixNormal,
    MatrixShaped,
    kl_from_factorised_normal,
)
from blob_pyro.distributions.subspace_normal import SubspaceNormal, kl_from_normal_on_subspace

__all__ = [
    # distributions
    "ColumnDropout",
    "KroneckerPrecisionNormal",
    "LowRankNormal",
    "LabelledTokens",
    "MatrixNormal",
    "MatrixShaped",
    "SubspaceNormal",
    # KL
    "kl_from_factorised_normal",
    "kl_from_normal_on_subspace",
]
