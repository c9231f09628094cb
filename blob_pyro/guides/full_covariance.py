"""A posterior with every covariance within a layer, for tiny layers."""

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from typing_extensions import override

from blob_pyro.distributions import MatrixShaped
from blob_pyro.guides.lora_guide import LoraGuide
from blob_pyro.guides.scale_tril import check_init_scale, scale_tril
from blob_pyro.models import BayesianLora

# Its factor is 64 MiB in float32; its gradient and Adam's state are as large again, each.
_MOST_ENTRIES = 4096


class FullCovarianceGuide(LoraGuide):
    r"""A Gaussian for each layer with a dense covariance, :math:`Cov(vec A) = L L^\top`.

    A layer takes :math:`(r n)^2` numbers, so this is for ground truth and for tiny layers.  Between
    layers it is independent, as every guide here is.  Its entries are not, so ``flipout`` refuses
    it.

    Parameters
    ----------
    model
        A model of :mod:`blob_pyro.models`; ``M`` starts at its adapter's own weights.
    init_scale
        At the start the entries are independent, each with the standard deviation
        ``init_scale``.

    Raises
    ------
    ValueError
        If ``init_scale`` is not positive and finite, or a layer has more than 4096 entries.

    Examples
    --------
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS", target_modules=["query"])
    >>> guide = FullCovarianceGuide(SequenceClassifier(net, num_data=10))
    >>> [tuple(root.shape) for _, root in guide.root.items()]
    [(32, 32), (32, 32)]
    >>> bool(guide.kl() > 0)
    True
    """

    independent_entries = False

    def __init__(self, model: BayesianLora, init_scale: float = 0.0025) -> None:
        super().__init__(model)
        self.init_scale = check_init_scale(init_scale)
        for name, mean in self.M.items():
            if mean.numel() > _MOST_ENTRIES:
                raise ValueError(
                    f"site {name!r} has {mean.numel()} entries, more than the {_MOST_ENTRIES} of a "
                    "full covariance; use LowRankPlusDiagonalGuide or MatrixNormalGuide"
                )
        self.root = self.each(lambda mean: init_scale**0.5 * torch.eye(mean.numel()).to(mean))

    @override
    def site_posterior(self, name: str) -> TorchDistributionMixin:
        loc = self.M.pyro_param("M", name)
        factor = scale_tril(self.root.pyro_param("root", name))
        base = dist.MultivariateNormal(loc.flatten(), scale_tril=factor, validate_args=False)
        return MatrixShaped(base, loc.shape, validate_args=False)

    @override
    def scale(self) -> dict[str, torch.Tensor]:
        return {name: self._factor(name).norm(dim=-1) for name in self.sites}

    def _factor(self, name: str) -> torch.Tensor:
        """Give ``L`` by row and column of ``A``, ``r x n x (r n)``."""
        return scale_tril(self.root[name].detach()).unflatten(0, self.M[name].shape)

    @override
    def variance_of_update(self, name: str, left: torch.Tensor) -> torch.Tensor:
        factor = self._factor(name)
        within_columns = torch.einsum("pjk,qjk->pqj", factor, factor)
        return torch.einsum("ip,iq,pqj->ij", left, left, within_columns)
