"""The point estimate of a student, whose logits say how sure they are themselves."""

from __future__ import annotations

import math

from blob_pyro.guides.point_estimate import PointEstimateGuide
from blob_pyro.models import BayesianLora


class DirichletGuide(PointEstimateGuide):
    r"""A point whose logits z stand for a Dirichlet over the class probabilities.

    Its concentrations are :math:`\exp(z + c)`.  Its mean is :math:`softmax(z)`, whatever c is, so
    the adapter predicts without this library too.  :func:`blob_pyro.posthoc.distill` makes one.

    Parameters
    ----------
    model
        A model of :mod:`blob_pyro.models`.
    log_precision
        c, a number that all logits of a data set share.

    Raises
    ------
    ValueError
        If ``log_precision`` is not finite.

    References
    ----------
    Malinin, Mlodozeniec and Gales, "Ensemble Distribution Distillation", ICLR 2020,
    arXiv 1905.00076.
    """

    predictive = "dirichlet"

    def __init__(self, model: BayesianLora, log_precision: float = 0.0) -> None:
        super().__init__(model)
        if not math.isfinite(log_precision):
            raise ValueError(f"log_precision={log_precision} must be finite")
        self.log_precision = log_precision
