"""Mean-field Gaussians: over ``A`` as in BLoB, over ``A`` and ``B`` as in Bayes by backprop."""

from __future__ import annotations

from blob_pyro.guides import LoraGuide, LowRankGaussianGuide
from blob_pyro.methods.method import Method, Settings
from blob_pyro.models import Classifier


def _gaussian(model: Classifier, settings: Settings) -> LoraGuide:
    return LowRankGaussianGuide(model, settings.init_scale)


# Wang et al., "BLoB: Bayesian Low-Rank Adaptation by Backpropagation", NeurIPS 2024.
BLOB = Method("blob", guide=_gaussian, objective="posterior", flipout=True)

# Blundell et al., "Weight Uncertainty in Neural Networks", ICML 2015, on both matrices.
BBB = Method("bbb", guide=_gaussian, latent=("A", "B"), objective="posterior", flipout=True)
