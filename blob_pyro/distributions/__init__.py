"""Distributions over matrices with correlated entries, and a KL from a factorised normal."""

from blob_pyro.distributions.column_dropout import ColumnDropout
from blob_pyro.distributions.gaussian_kl import kl_from_factorised_normal
from blob_pyro.distributions.matrix_normal import MatrixNormal
from blob_pyro.distributions.matrix_shaped import MatrixShaped

__all__ = [
    # distributions
    "ColumnDropout",
    "MatrixNormal",
    "MatrixShaped",
    # KL
    "kl_from_factorised_normal",
]
