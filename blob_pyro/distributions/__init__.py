"""Distributions that Pyro lacks: matrices with correlated entries, and labelled tokens."""

from blob_pyro.distributions.gaussian_kl import kl_from_factorised_normal
from blob_pyro.distributions.labelled_tokens import LabelledTokens
from blob_pyro.distributions.matrix_normal import MatrixNormal
from blob_pyro.distributions.matrix_shaped import MatrixShaped

__all__ = [
    # distributions
    "LabelledTokens",
    "MatrixNormal",
    "MatrixShaped",
    # KL
    "kl_from_factorised_normal",
]
