"""A posterior with a few directions of common variation: low rank plus diagonal."""

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from typing_extensions import override

from blob_pyro.distributions import MatrixShaped
from blob_pyro.guides.lora_guide import LoraGuide
from blob_pyro.guides.scale_tril import check_init_scale, initial_root
from blob_pyro.models import BayesianLora

# Small, for a start at independent entries, but not zero, where the gradient of F vanishes.
_INIT_FACTOR = 0.01


class LowRankPlusDiagonalGuide(LoraGuide):
    r"""A Gaussian for each layer with :math:`Cov(vec A) = \Omega (F F^\top + I) \Omega`.

    :math:`\Omega` is diagonal, the square of ``G`` as in :class:`LowRankGaussianGuide`, and
    :math:`F` has ``num_factors`` columns: directions, relative to :math:`\Omega`, in which all
    entries of a layer vary together.

    Its entries are not independent, so ``flipout`` refuses it.  It needs float32 or wider, since
    torch factorises a small matrix.

    Parameters
    ----------
    model
        A model of :mod:`blob_pyro.models`; ``M`` starts at its adapter's own weights.
    num_factors
        Columns of :math:`F`, which has nothing to do with the rank of the adapter.
    init_scale
        :math:`\epsilon`: at the start :math:`G \sim U(\epsilon / \sqrt 2, \epsilon)` as in the
        paper, so standard deviations lie between half of ``init_scale`` and all of it, but
        for :math:`F`, which starts at 0.01 times standard normal numbers.

    Raises
    ------
    ValueError
        If ``num_factors`` is below 1, or ``init_scale`` not positive and finite.

    Examples
    --------
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS", target_modules=["query"])
    >>> guide = LowRankPlusDiagonalGuide(SequenceClassifier(net, num_data=10), num_factors=3)
    >>> [tuple(factors.shape) for _, factors in guide.F.items()]
    [(2, 16, 3), (2, 16, 3)]
    >>> bool(guide.kl() > 0)
    True

    References
    ----------
    Ong, Nott and Smith, "Gaussian Variational Approximation With a Factor Covariance Structure",
    JCGS 2018.
    """

    independent_entries = False

    def __init__(
        self, model: BayesianLora, num_factors: int = 4, init_scale: float = 0.0025
    ) -> None:
        super().__init__(model)
        if num_factors < 1:
            raise ValueError(f"num_factors={num_factors}: give 1 or more")
        self.num_factors = num_factors
        self.init_scale = check_init_scale(init_scale)
        self.G = self.each(lambda mean: initial_root(mean, init_scale))
        self.F = self.each(
            lambda mean: mean.new_empty(*mean.shape, num_factors).normal_(std=_INIT_FACTOR)
        )

    @override
    def site_posterior(self, name: str) -> TorchDistributionMixin:
        loc = self.M.pyro_param("M", name)
        scale = self.G.pyro_param("G", name).square()
        factors = scale[..., None] * self.F.pyro_param("F", name)
        base = dist.LowRankMultivariateNormal(
            loc.flatten(), factors.flatten(0, 1), scale.square().flatten(), validate_args=False
        )
        return MatrixShaped(base, loc.shape, validate_args=False)

    @override
    def scale(self) -> dict[str, torch.Tensor]:
        return {
            name: self.G[name].detach().square()
            * (1 + self.F[name].detach().square().sum(-1)).sqrt()
            for name in self.sites
        }

    @override
    def variance_of_update(self, name: str, left: torch.Tensor) -> torch.Tensor:
        scale = self.G[name].detach().square()
        factors = scale[..., None] * self.F[name].detach()
        common = torch.einsum("ip,pjk->ijk", left, factors).square().sum(-1)
        return left.square() @ scale.square() + common
