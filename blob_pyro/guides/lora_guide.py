"""What every guide over LoRA sites can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import nn
from torch.distributions import kl_divergence

from blob_pyro.guides.site_parameters import SiteParameters
from blob_pyro.lora import LoraSite
from blob_pyro.models import Classifier


class LoraGuide(nn.Module, ABC):
    """Base of the guides: independent sites, each centred at a learned mean ``M``.

    A subclass gives :meth:`site_posterior`, :meth:`scale` and :meth:`config`.  Parameters are
    stated to Pyro by :func:`blob_pyro.poutine.local_param`, so two guides never share any.

    Parameters
    ----------
    model
        A model of :mod:`blob_pyro.models`; ``M`` starts at its adapter's own ``lora_A``.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        # In a tuple, as in Pyro's autoguides: the model is no part of the guide's state.
        self._model = (model,)
        self.M = SiteParameters(
            {name: site.projection.initial_weight for name, site in model.sites.items()}
        )

    @property
    def model(self) -> Classifier:
        """The model that the guide was made for."""
        return self._model[0]

    @property
    def sites(self) -> dict[str, LoraSite]:
        """The latent sites, in the network's order."""
        return self.model.sites

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Sample every site; takes and ignores the model's arguments.

        Returns
        -------
        dict
            Site name to draw, ``r x n`` (``K x 1 x r x n`` under a plate of K draws).
        """
        return {name: self._sample(name) for name in self.sites}

    def _sample(self, name: str) -> torch.Tensor:
        posterior = self.site_posterior(name)
        # The centre tells handlers such as flipout what a draw deviates from.
        return pyro.sample(name, posterior, infer=cast(Any, {"center": posterior.mean}))

    @abstractmethod
    def site_posterior(self, name: str) -> TorchDistributionMixin:
        """Give the posterior of one site, event shape ``(r, n)``."""

    def mean(self) -> dict[str, torch.Tensor]:
        """Posterior means.

        Returns
        -------
        dict
            Site name to a copy of ``M``, ``r x n``.
        """
        return {name: self.M[name].detach().clone() for name in self.sites}

    @abstractmethod
    def scale(self) -> dict[str, torch.Tensor]:
        """Posterior standard deviations: site name to tensor ``r x n``, in units of the weight."""

    def weight_moments(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Mean and standard deviation of the full weight update of one layer.

        With independent entries of ``A``, :math:`E[\Delta W] = s B M` and
        :math:`Var[\Delta W_{ij}] = s^2 \sum_p B_{ip}^2 \Omega_{pj}^2`; no covariance is built.

        Parameters
        ----------
        name
            Site name.

        Returns
        -------
        mean, standard_deviation
            Tensors ``m x n`` in units of the base weight.

        References
        ----------
        Wang et al., "BLoB", NeurIPS 2024, theorem 3.1.
        """
        site = self.sites[name]
        lora_B = site.lora_B.detach()
        mean = site.scaling * lora_B @ self.mean()[name]
        variance = site.scaling**2 * lora_B.square() @ self.scale()[name].square()
        return mean, variance.sqrt()

    def kl(self) -> torch.Tensor:
        """KL divergence from the prior to the posterior, in closed form.

        Returns
        -------
        torch.Tensor
            Nats, summed over all sites; a differentiable scalar, not reweighted.
        """
        terms = [
            kl_divergence(self.site_posterior(name), site.projection.prior_distribution())
            for name, site in self.sites.items()
        ]
        return torch.stack(terms).sum()

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Give the constructor's arguments beside ``model``, as JSON values."""
