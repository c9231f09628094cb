"""Monte Carlo dropout."""

from __future__ import annotations

from blob_pyro.guides import DropoutGuide, LoraGuide
from blob_pyro.methods.method import Method, Settings
from blob_pyro.models import Classifier


def _dropout(model: Classifier, settings: Settings) -> LoraGuide:
    return DropoutGuide(model)


# Gal and Ghahramani, ICML 2016; the rate is that of the baseline of BLoB's paper.
MCD = Method("mcd", guide=_dropout, objective="likelihood", dropout=0.1)
