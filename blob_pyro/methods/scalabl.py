"""The stochastic subspace: a few random scales a layer."""

from __future__ import annotations

from blob_pyro.guides import LoraGuide, StochasticSubspaceGuide
from blob_pyro.methods.method import Method, Settings
from blob_pyro.models import Classifier


def _stochastic_subspace(model: Classifier, settings: Settings) -> LoraGuide:
    return StochasticSubspaceGuide(model, settings.init_scale)


# Samplawski et al., "Scalable Bayesian Low-Rank Adaptation of Large Language Models via Stochastic
# Variational Subspace Inference", UAI 2025.
SCALABL = Method("scalabl", guide=_stochastic_subspace, objective="posterior")
