"""Monte Carlo dropout: a posterior whose draws have dropped inputs."""

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import nn
from typing_extensions import override

from blob_pyro.distributions import ColumnDropout
from blob_pyro.guides.lora_guide import LoraGuide
from blob_pyro.lora import LoraSite
from blob_pyro.models import BayesianLora


class DropoutGuide(LoraGuide):
    r"""Dropout on the LoRA input as a guide: a draw is :math:`M diag(m)`, one mask a layer.

    In training mode PEFT's own ``lora_dropout`` acts (a mask for each token), and the guide gives
    ``M``: training is that of unmodified PEFT.  In evaluation mode PEFT's dropout is off, and a
    draw has one mask for all tokens and examples, so that it is a function of the input.  ``B``, if
    it is latent, is a point.

    Parameters
    ----------
    model
        A model of :mod:`blob_pyro.models`; ``M`` starts at its adapter's own weights, and the rate
        of each layer is its ``lora_dropout``.

    Raises
    ------
    ValueError
        If a layer has no dropout.

    Examples
    --------
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS", target_modules=["query"], lora_dropout=0.5)
    >>> model = SequenceClassifier(net, 10)
    >>> draw, _ = DropoutGuide(model.eval())().values()  # two layers
    >>> bool(((draw == 0).sum(dim=0) % 2).any())  # only whole columns of two entries
    False

    References
    ----------
    Gal and Ghahramani, "Dropout as a Bayesian Approximation", ICML 2016; Wang et al., "BLoB",
    NeurIPS 2024, table 1 (the baseline MCD).
    """

    independent_entries = False

    def __init__(self, model: BayesianLora) -> None:
        for name, site in model.sites.items():
            _rate(name, site)
        super().__init__(model)

    @override
    def site_posterior(self, name: str) -> TorchDistributionMixin:
        mean, rate = self.M.pyro_param("M", name), _rate(name, self.sites[name])
        if self.model.training or rate == 0:
            return dist.Delta(mean, validate_args=False, event_dim=2)
        return ColumnDropout(mean, rate, validate_args=False)

    def _odds(self, name: str) -> float:
        rate = _rate(name, self.sites[name])
        return rate / (1 - rate)

    @override
    def scale(self) -> dict[str, torch.Tensor]:
        return {name: self.mean()[name].abs() * self._odds(name) ** 0.5 for name in self.sites}

    @override
    def variance_of_update(self, name: str, left: torch.Tensor) -> torch.Tensor:
        # All rows of a column share its mask.
        return (left @ self.M[name].detach()).square() * self._odds(name)


def _rate(name: str, site: LoraSite) -> float:
    if site.matrix != "A":
        return 0.0
    dropout = site.layer.lora_dropout[site.adapter]
    rate = dropout.p if isinstance(dropout, nn.Dropout) else 0.0
    if not 0 < rate < 1:
        raise ValueError(
            f"site {name!r}: the layer's lora_dropout is {rate}, so nothing would be dropped; "
            "give LoraConfig(lora_dropout=0.1)"
        )
    return rate
