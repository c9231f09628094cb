"""Gaussians over matrices with correlated entries, and their KL from a factorised normal."""

from blob_pyro.distributions.gaussian_kl import kl_from_factorised_normal
from blob_pyro.distributions.matrix_normal import MatrixNormal
from blob_pyro.distributions.matrix_shaped import MatrixShaped

__all__ = [
    # distributions
    "MatrixNormal",
    "MatrixShaped",
    # KL
    "kl_from_factorised_normal",
]
