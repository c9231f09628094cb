"""SWAG's posterior: the Gaussian of a path of SGD, low rank plus diagonal, over all layers."""

import math
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from typing_extensions import override

from blob_pyro.distributions import LowRankNormal, MatrixShaped
from blob_pyro.guides.lora_guide import LoraGuide
from blob_pyro.models import BayesianLora

# Beside the sites' names, which are paths of the network.
_JOINT_SITE = "all_weights"


class SWAGGuide(LoraGuide):
    r"""A Gaussian over all sites at once, :math:`N(M, F F^\top + diag(S^2))`.

    From the mean, the variances and the last K deviations :math:`D` of a path of SGD,
    :math:`S^2 = \frac{1}{2} diag(Var)` and :math:`F = D / \sqrt{2 (K - 1)}`.  The K common factors
    move all layers together: unlike the other guides, this one has covariances between layers.
    :func:`blob_pyro.posthoc.swag` runs the path; nothing here is learned by gradients, and a guide
    without a path has no spread.

    A draw is one of the auxiliary site ``all_weights``, of which each site is a part; the KL is
    estimated by the log densities of the draw.  The entries are not independent, so ``flipout``
    refuses this guide.

    Parameters
    ----------
    model
        A model of :mod:`blob_pyro.models`; ``M`` starts at its adapter's own weights.
    num_deviations
        K.

    Raises
    ------
    ValueError
        If ``num_deviations`` is below 2.

    Examples
    --------
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS", target_modules=["query"])
    >>> guide = SWAGGuide(SequenceClassifier(net, num_data=10), num_deviations=3)
    >>> [tuple(factors.shape) for _, factors in guide.F.items()]
    [(2, 16, 3), (2, 16, 3)]

    References
    ----------
    Maddox et al., "A Simple Baseline for Bayesian Uncertainty in Deep Learning", NeurIPS 2019,
    section 3.2; for LoRA: Onal et al., "Gaussian Stochastic Weight Averaging for Bayesian Low-Rank
    Adaptation of Large Language Models", 2024, arXiv 2405.03425.
    """

    independent_entries = False

    def __init__(self, model: BayesianLora, num_deviations: int = 20) -> None:
        if num_deviations < 2:
            raise ValueError(f"num_deviations={num_deviations}: their covariance needs 2 or more")
        super().__init__(model)
        self.num_deviations = num_deviations
        self.S = self.each(torch.zeros_like)
        self.F = self.each(lambda mean: mean.new_zeros(*mean.shape, num_deviations))
        self.requires_grad_(False)

    def set_moments(
        self,
        mean: Mapping[str, torch.Tensor],
        variance: Mapping[str, torch.Tensor],
        deviations: Mapping[str, torch.Tensor],
    ) -> None:
        """Become the Gaussian of a path.

        Parameters
        ----------
        mean, variance
            Site name to moments over the path, ``r x n``.
        deviations
            Site name to the last K deviations from the mean, ``r x n x K``.

        Raises
        ------
        ValueError
            If a site has another number of deviations.
        """
        for name in self.sites:
            if (found := deviations[name].shape) != self.F[name].shape:
                raise ValueError(
                    f"site {name!r} has deviations of shape {(*found,)} but num_deviations="
                    f"{self.num_deviations}; collect more weights, or make the guide for fewer"
                )
        for name in self.sites:
            self.M[name].copy_(mean[name])
            self.S[name].copy_((variance[name] / 2).sqrt())
            self.F[name].copy_(deviations[name] / math.sqrt(2 * (self.num_deviations - 1)))

    @override
    def forward(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        hyper = self.hyper()
        joint = pyro.sample(_JOINT_SITE, self._joint_posterior(), infer={"is_auxiliary": True})
        return hyper | {
            name: pyro.sample(name, dist.Delta(part, event_dim=2, validate_args=False))
            for name, part in self._parts(joint).items()
        }

    def _joint_posterior(self) -> LowRankNormal:
        mean, scale, factors = (
            torch.cat([part.flatten(0, 1) for _, part in parts.items()])
            for parts in (self.M, self.S, self.F)
        )
        return LowRankNormal(mean, factors, scale, validate_args=False)

    def _parts(self, joint: torch.Tensor) -> dict[str, torch.Tensor]:
        sizes = [mean.numel() for _, mean in self.M.items()]
        parts = zip(self.sites, joint.split(sizes, dim=-1), strict=True)
        return {name: part.unflatten(-1, self.M[name].shape) for name, part in parts}

    @override
    def site_posterior(self, name: str) -> TorchDistributionMixin:
        mean, scale, factors = (parts[name].flatten(0, 1) for parts in (self.M, self.S, self.F))
        base = LowRankNormal(mean, factors, scale, validate_args=False)
        return MatrixShaped(base, self.M[name].shape, validate_args=False)

    @override
    def scale(self) -> dict[str, torch.Tensor]:
        return {name: self.site_posterior(name).stddev for name in self.sites}

    @override
    def variance_of_update(self, name: str, left: torch.Tensor) -> torch.Tensor:
        common = torch.einsum("ip,pjk->ijk", left, self.F[name]).square().sum(-1)
        return left.square() @ self.S[name].square() + common
