"""BLoB's posterior: a Gaussian on ``A`` that is a low-rank Gaussian on the full weight."""

from collections.abc import Callable
from typing import Literal

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from typing_extensions import override

from blob_pyro.guides.lora_guide import LoraGuide
from blob_pyro.guides.site_parameters import check_init_scale, initial_root
from blob_pyro.models import BayesianLora

Parameterization = Literal["square", "softplus", "exp"]
Map = Callable[[torch.Tensor], torch.Tensor]

# From G to the scale; from the root of the initial scale to G.
_SCALES: dict[Parameterization, tuple[Map, Map]] = {
    "square": (torch.square, lambda root: root),
    "softplus": (torch.nn.functional.softplus, lambda root: root.square().expm1().log()),
    "exp": (torch.exp, lambda root: 2 * root.log()),
}


class LowRankGaussianGuide(LoraGuide):
    r"""The guide of BLoB, :math:`A_{ij} \sim N(M_{ij}, \Omega_{ij}^2)` with :math:`\Omega = G^2`.

    On the full weight :math:`W = W_0 + s B A` this is a Gaussian of covariance
    :math:`Cov(W_{ij}, W_{kl}) = s^2 [j = l] \sum_p B_{ip} B_{kp} \Omega_{pj}^2`.

    Parameters
    ----------
    model
        A model of :mod:`blob_pyro.models`; ``M`` starts at its adapter's own weights.
    init_scale
        Largest standard deviation of the posterior at the start; the smallest is half of it, as
        :math:`G \sim U(\epsilon / \sqrt 2, \epsilon)` with :math:`\epsilon^2` of ``init_scale``,
        whatever the parameterization.  The paper's :math:`\epsilon = 0.05` is 0.0025.
    parameterization
        How :math:`\Omega` follows from the parameter ``G``: ``"square"`` as in the paper,
        ``"softplus"`` or ``"exp"``.

    Raises
    ------
    ValueError
        If ``init_scale`` is not positive and finite, or the parameterization unknown.

    Examples
    --------
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS", target_modules=["query"])
    >>> guide = LowRankGaussianGuide(SequenceClassifier(net, num_data=10))
    >>> [tuple(scale.shape) for scale in guide.scale().values()]
    [(2, 16), (2, 16)]
    >>> bool(guide.kl() > 0)
    True

    References
    ----------
    Wang et al., "BLoB", NeurIPS 2024, equations 4 to 8 and theorem 3.1.
    """

    def __init__(
        self,
        model: BayesianLora,
        init_scale: float = 0.0025,
        parameterization: Parameterization = "square",
    ) -> None:
        if parameterization not in _SCALES:
            raise ValueError(f"{parameterization=} is unknown; use one of {[*_SCALES]}")
        self.init_scale = check_init_scale(init_scale)
        super().__init__(model)
        self.parameterization: Parameterization = parameterization
        self._scale, from_root = _SCALES[parameterization]
        self.G = self.each(lambda mean: from_root(initial_root(mean, init_scale)))

    @override
    def site_posterior(self, name: str) -> TorchDistributionMixin:
        loc = self.M.pyro_param("M", name)
        scale = self._scale(self.G.pyro_param("G", name))
        return dist.Normal(loc, scale, validate_args=False).to_event(2)

    @override
    def scale(self) -> dict[str, torch.Tensor]:
        return {name: self._scale(self.G[name].detach()) for name in self.sites}
