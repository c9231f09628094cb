"""What every guide over LoRA sites can do."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Self, cast

import pyro
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import nn

from blob_pyro.guides.hyper_posterior import HyperPosterior, hyper_sites
from blob_pyro.guides.site_parameters import SiteParameters
from blob_pyro.lora import LoraSite
from blob_pyro.models import BayesianLora, Classifier
from blob_pyro.poutine import in_turn, kl_terms, taking_turns

Batch = Mapping[str, torch.Tensor]
Draw = dict[str, torch.Tensor]

_GUIDES: dict[str, type[LoraGuide]] = {}


class LoraGuide(nn.Module, ABC):
    """Base of the guides: independent sites, each centred at a learned mean ``M``.

    A subclass gives :meth:`site_posterior` and :meth:`scale`, and :meth:`variance_of_update` if a
    site's entries are correlated.  It keeps its arguments as attributes of their names, which
    :meth:`config` saves.  What it learns beside ``M`` goes into :class:`SiteParameters`
    (:meth:`each`), so that two guides never share any.  It checks its arguments before this
    ``__init__``, from which on bare calls of the network follow its mean.  If the model's prior has
    sites of its own, they are sampled first, from independent Gaussians in unconstrained space.

    Below, ``A`` of shape ``r x n`` is any latent matrix: in a model with ``latent=("A", "B")`` each
    layer has a second site, ``B``, of shape ``m x r``.

    Parameters
    ----------
    model
        A model of :mod:`blob_pyro.models`; ``M`` starts at its adapter's own weights.
    """

    # Whether the entries of a site deviate from M independently and symmetrically: only then is a
    # draw with flipped signs a draw, which flipout relies on.
    independent_entries: ClassVar[bool] = True
    # How draws predict: "network" runs the network under each of them.
    predictive: str = "network"
    # Whether all draws are the mean.
    is_point: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        known = _GUIDES.get(cls.__name__)
        if known is not None and known.__module__.startswith("blob_pyro."):
            raise TypeError(
                f"blob_pyro has a guide {cls.__name__!r}, and a saved posterior names its guide; "
                "give yours another name"
            )
        _GUIDES[cls.__name__] = cls

    def __init__(self, model: BayesianLora) -> None:
        super().__init__()
        # In a tuple, as in Pyro's autoguides: the model is no part of the guide's state.
        self._model = (model,)
        self.M = SiteParameters(
            {name: site.projection.initial_weight for name, site in model.sites.items()}
        )
        self.hyper = HyperPosterior(hyper_sites(model))
        for name, site in model.sites.items():
            site.projection.follow(partial(self.site_mean, name))

    def each(self, make: Callable[[torch.Tensor], torch.Tensor]) -> SiteParameters:
        """Make a parameter for every site, from its mean ``r x n``."""
        return SiteParameters({name: make(mean.detach()) for name, mean in self.M.items()})

    @property
    def model(self) -> BayesianLora:
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
        return self.hyper() | {name: self._sample(name) for name in self.sites}

    def _sample(self, name: str) -> torch.Tensor:
        posterior = self.site_posterior(name)
        # The centre tells handlers such as flipout what a draw deviates from.
        infer = {"center": posterior.mean} if self.independent_entries else {}
        return pyro.sample(name, posterior, infer=cast(Any, infer))

    @abstractmethod
    def site_posterior(self, name: str) -> TorchDistributionMixin:
        """Give the posterior of one site, event shape ``(r, n)``."""

    def draws(self, num_samples: int) -> list[Draw]:
        """Draw every site K times, or give the mean as the one draw for K = 0.

        Parameters
        ----------
        num_samples
            Number of draws K.

        Returns
        -------
        list of dict
            For each draw, site name to value, ``r x n``.
        """
        if num_samples == 0:
            return [self.mean()]
        with taking_turns(), poutine.block(), torch.no_grad():
            return [self() for _ in range(num_samples)]

    def logits_function(
        self, model: Classifier, draws: Sequence[Draw]
    ) -> Callable[[Batch], torch.Tensor] | None:
        """Give the function from a batch of B to its logits, ``K x B x C``, under K draws.

        None stands for the network, run under each draw.
        """
        return None

    def mean(self) -> dict[str, torch.Tensor]:
        """Posterior means.

        Returns
        -------
        dict
            Site name to a copy of ``M``, ``r x n``.
        """
        return {name: self.M[name].detach().clone() for name in self.sites}

    def site_mean(self, name: str) -> torch.Tensor:
        """Posterior mean of one site, ``r x n``."""
        return self.M[name].detach()

    @abstractmethod
    def scale(self) -> dict[str, torch.Tensor]:
        """Posterior standard deviations: site name to tensor ``r x n``, in units of the weight."""

    def weight_moments(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Mean and standard deviation of the full weight update of one layer.

        :math:`E[\Delta W] = s B M` and :math:`Var[\Delta W_{ij}] = s^2 \sum_{pq} B_{ip} B_{iq}
        Cov(A_{pj}, A_{qj})`; no covariance of :math:`\Delta W` is built.  A latent ``B`` is
        independent of ``A``: its mean takes the place of ``B``, and the variance gains
        :math:`s^2 \sum_p Var[B_{ip}] E[A_{pj}^2]`.

        Parameters
        ----------
        name
            Name of the layer's site of ``A``.

        Returns
        -------
        mean, standard_deviation
            Tensors ``m x n`` in units of the base weight.

        Raises
        ------
        ValueError
            If the site is not of an ``A``, or ``B`` is latent with correlated entries.

        References
        ----------
        Wang et al., "BLoB", NeurIPS 2024, theorem 3.1.
        """
        site, partner = self.sites[name], name.replace(".lora_A.", ".lora_B.")
        if site.matrix != "A":
            raise ValueError(f"{name!r} is not a site of a matrix A; ask for the layer's lora_A")
        mean, is_latent = self.mean(), partner in self.sites
        left = site.scaling * (mean[partner] if is_latent else site.lora_B.detach())
        with torch.no_grad():
            variance = self.variance_of_update(name, left)
            if is_latent:
                variance = variance + site.scaling**2 * self._variance_by_B(name, partner)
        return left @ mean[name], variance.sqrt()

    def _variance_by_B(self, name: str, partner: str) -> torch.Tensor:
        if not self.independent_entries:
            raise ValueError(
                f"the entries of {partner!r} are correlated in a {type(self).__name__}, for which "
                "weight_moments has no closed form; average over draws instead"
            )
        scale = self.scale()
        second_moment = self.mean()[name].square() + scale[name].square()
        return scale[partner].square() @ second_moment

    def variance_of_update(self, name: str, left: torch.Tensor) -> torch.Tensor:
        """Variances of ``left @ A``: ``m x n`` for ``left`` of shape ``m x r``.

        This one is for independent entries of ``A``.
        """
        return left.square() @ self.scale()[name].square()

    def kl(self) -> torch.Tensor:
        """KL divergence of the posterior from the prior; the network is not run.

        Closed forms where they exist; sites without one (those of a hyper-prior, or a prior that
        has no closed form with this posterior) contribute the log densities of one draw.

        Returns
        -------
        torch.Tensor
            Nats, summed over all sites; a differentiable scalar, not reweighted.
        """
        with in_turn(), poutine.block():
            guide_trace = poutine.trace(self).get_trace()
            prior = poutine.replay(self.model.sample_latents, trace=guide_trace)
            prior_trace = poutine.trace(prior).get_trace()
        return torch.stack(kl_terms(prior_trace, guide_trace)).sum()

    def scale_parameters(self) -> list[nn.Parameter]:
        """List what is learned beside ``M``: how far draws lie from the mean, and in which way."""
        return [
            parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and not name.startswith("M.")
        ]

    @classmethod
    def from_config(cls, model: BayesianLora, config: dict[str, Any]) -> Self:
        """Make a guide with the arguments that :meth:`config` gave, at the model's own weights."""
        return cls(model, **config)

    def config(self) -> dict[str, Any]:
        """Give the constructor's arguments beside ``model``, as JSON values.

        Each is an attribute of its name, as in scikit-learn.
        """
        names = [name for name in inspect.signature(type(self)).parameters if name != "model"]
        return {name: getattr(self, name) for name in names}


# What saved posteriors call classes that have another name since.
_FORMER_NAMES = {"LowRankIsotropicGuide": "TFBGuide", "StochasticSubspaceGuide": "ScalaBLGuide"}


def find_guide(name: str) -> type[LoraGuide]:
    """Give the class of guides of that name, this library's or one of the user's that is imported.

    Raises
    ------
    KeyError
        If there is none.
    """
    found = _GUIDES[_FORMER_NAMES.get(name, name)]
    if inspect.isabstract(found):
        raise KeyError(name)
    return found
