"""No posterior at all: the point estimate of ordinary LoRA, and that of a student."""

import math

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from typing_extensions import override

from blob_pyro.guides.lora_guide import LoraGuide
from blob_pyro.models import BayesianLora


class PointEstimateGuide(LoraGuide):
    """A ``Delta`` at ``M``: plain LoRA as a guide.

    Under an ELBO of ``kl_scale=0`` training is maximum likelihood, the same as PEFT without this
    library; with the KL it is MAP, since a point's "KL" is minus the log prior density.

    Parameters
    ----------
    model
        A model of :mod:`blob_pyro.models`; ``M`` starts at its adapter's own weights.

    Examples
    --------
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS")
    >>> guide = PointEstimateGuide(SequenceClassifier(net, num_data=10))
    >>> float(sum(scale.sum() for scale in guide.scale().values()))
    0.0
    """

    is_point = True

    @override
    def site_posterior(self, name: str) -> TorchDistributionMixin:
        return dist.Delta(self.M.pyro_param("M", name), validate_args=False, event_dim=2)

    @override
    def scale(self) -> dict[str, torch.Tensor]:
        return {name: torch.zeros_like(self.M[name]) for name in self.sites}


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
        if not math.isfinite(log_precision):
            raise ValueError(f"log_precision={log_precision} must be finite")
        super().__init__(model)
        self.log_precision = log_precision
