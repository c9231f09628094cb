"""A posterior that is isotropic in the space of updates that the adapter can make."""

import math

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from typing_extensions import override

from blob_pyro.guides.lora_guide import LoraGuide
from blob_pyro.models import BayesianLora


class TFBGuide(LoraGuide):
    r"""Independent :math:`A_{ij} \sim N(M_{ij}, \sigma_q^2 / d_i^2)`, one :math:`\sigma_q` for all.

    :math:`d_i` is the norm of column i of :math:`B`.  Where the columns are orthogonal, as
    :func:`blob_pyro.posthoc.to_singular_basis` makes them, :math:`B A = B M + \sigma_q U E` with
    orthonormal :math:`U` and standard normal :math:`E`: it varies by as much in every direction
    that the adapter reaches.  A column of zeros reaches none, and its row of :math:`A` has no
    spread.

    Parameters
    ----------
    model
        A model of :mod:`blob_pyro.models` whose ``B`` is a point estimate; ``M`` starts at its
        adapter's own ``lora_A``.
    update_scale
        :math:`\sigma_q`, in the units of the base weight, before LoRA's scaling s.

    Raises
    ------
    ValueError
        If ``update_scale`` is not positive and finite, or ``B`` is latent.

    Examples
    --------
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS", target_modules=["query"])
    >>> model = SequenceClassifier(net, num_data=10)
    >>> for site in model.sites.values():
    ...     _ = torch.nn.init.orthogonal_(site.lora_B, gain=2.0)
    >>> guide = TFBGuide(model, update_scale=0.1)
    >>> [round(float(scale.mean()), 6) for scale in guide.scale().values()]
    [0.05, 0.05]

    References
    ----------
    Shi et al., "Training-Free Bayesianization for Low-Rank Adapters of Large Language Models",
    NeurIPS 2025, arXiv 2412.05723 (the family of low-rank isotropic Gaussians).
    """

    def __init__(self, model: BayesianLora, update_scale: float = 0.01) -> None:
        if "B" in model.latent:
            raise ValueError(
                f"latent={model.latent}, but the scale of A follows from a B that is fixed; use "
                "a model with latent=('A',), such as model_at_mean(model, guide, ('A',))"
            )
        if not 0 < update_scale < math.inf:
            raise ValueError(f"update_scale={update_scale} must be positive and finite")
        super().__init__(model)
        self.update_scale = update_scale

    @override
    def site_posterior(self, name: str) -> TorchDistributionMixin:
        loc = self.M.pyro_param("M", name)
        return dist.Normal(loc, self._scale(name), validate_args=False).to_event(2)

    def _scale(self, name: str) -> torch.Tensor:
        norms = self.sites[name].lora_B.detach().norm(dim=0)
        rows = torch.where(norms > 0, self.update_scale / norms, 0.0)
        return rows.to(self.M[name])[:, None].expand_as(self.M[name])

    @override
    def scale(self) -> dict[str, torch.Tensor]:
        return {name: self._scale(name) for name in self.sites}
