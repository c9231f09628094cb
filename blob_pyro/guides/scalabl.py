"""ScalaBL's posterior: a few random scales a layer, each along a direction that is learned."""

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from typing_extensions import override

from blob_pyro.distributions import SubspaceNormal
from blob_pyro.guides.lora_guide import LoraGuide
from blob_pyro.guides.site_parameters import SiteParameters, check_init_scale, initial_root
from blob_pyro.models import BayesianLora


class ScalaBLGuide(LoraGuide):
    r"""ScalaBL: :math:`A = U diag(s) V^\top` with r random scales, :math:`s_i \sim N(m_i, g_i^4)`.

    :math:`U S V^\top` is the singular value decomposition of the adapter's own ``lora_A``: the mean
    of :math:`s` starts at :math:`S`, :math:`U` stays, and :math:`V` is learned with unit rows, as
    the rows of :math:`U^\top M` (whose lengths are :math:`m`).  So ``M`` is what it is in the other
    guides, and the posterior adds r numbers ``G`` a layer to it.

    The KL divergence is :math:`\sum_i KL(N(m_i, g_i^4), N(0, \sigma_p^2))`: the directions are
    orthonormal, so on their subspace the prior over :math:`A` is a normal one over :math:`s`.

    The paper drops :math:`U`, which a fresh ``B`` of zeros does not notice; kept here, it lets the
    guide start from a trained adapter too.  The paper's code learns a :math:`V` of any length, by
    which the scales could escape their prior, gives :math:`s` the prior :math:`N(0, 1)`, and
    computes KL(prior, posterior) in place of KL(posterior, prior).

    The entries of a row vary together, so ``flipout`` refuses this guide.

    Parameters
    ----------
    model
        A model of :mod:`blob_pyro.models`; ``M`` starts at its adapter's own weights.
    init_scale
        Largest standard deviation of a scale :math:`s_i` at the start (of the length of a
        direction, not of an entry of :math:`A`); the smallest is half of it.  The default is about
        the paper's, 0.035 to 0.05.

    Raises
    ------
    ValueError
        If ``init_scale`` is not positive and finite, or a matrix of the adapter does not have full
        rank.

    Examples
    --------
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS", target_modules=["query"])
    >>> guide = ScalaBLGuide(SequenceClassifier(net, num_data=10))
    >>> [tuple(root.shape) for _, root in guide.G.items()]
    [(2,), (2,)]
    >>> bool(guide.kl() > 0)
    True

    References
    ----------
    Samplawski et al., "Scalable Bayesian Low-Rank Adaptation of Large Language Models via
    Stochastic Variational Subspace Inference", UAI 2025, arXiv 2506.21408.
    """

    independent_entries = False

    def __init__(self, model: BayesianLora, init_scale: float = 0.05) -> None:
        self.init_scale = check_init_scale(init_scale)
        left = {
            name: _left_vectors(name, site.projection.initial_weight)
            for name, site in model.sites.items()
        }
        super().__init__(model)
        # Fixed, but part of the state: after training it is no longer that of the mean.
        self.U = SiteParameters(left)
        self.U.requires_grad_(False)
        self.G = SiteParameters(
            {name: initial_root(left[0], init_scale) for name, left in self.U.items()}
        )

    @override
    def site_posterior(self, name: str) -> TorchDistributionMixin:
        loc = self.M.pyro_param("M", name)
        scale = self.G.pyro_param("G", name).square()
        right = _directions(self.U[name], loc)
        return SubspaceNormal(loc, self.U[name], scale, right, validate_args=False)

    @override
    def scale(self) -> dict[str, torch.Tensor]:
        return {
            name: self.variance_of_update(name, torch.eye(len(mean)).to(mean)).sqrt()
            for name, mean in self.mean().items()
        }

    @override
    def variance_of_update(self, name: str, left: torch.Tensor) -> torch.Tensor:
        variance = self.G[name].detach().square().square()
        right = _directions(self.U[name], self.M[name].detach())
        return ((left @ self.U[name]).square() * variance) @ right.square()


def _left_vectors(name: str, mean: torch.Tensor) -> torch.Tensor:
    # Half precision has no decomposition.
    wide = mean.detach().to(torch.promote_types(mean.dtype, torch.float32))
    left, singular_values, _ = torch.linalg.svd(wide, full_matrices=False)
    smallest, largest = singular_values[[-1, 0]].tolist()
    if smallest <= max(mean.shape) * torch.finfo(wide.dtype).eps * largest:
        raise ValueError(
            f"site {name!r}: the adapter's matrix has singular values from {smallest:.2g} to "
            f"{largest:.2g}; start from an adapter of full rank, with A latent alone"
        )
    return left.to(mean.dtype)


def _directions(left: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Give the unit rows of ``U^T M``."""
    return torch.nn.functional.normalize(left.mT @ mean, dim=-1)
