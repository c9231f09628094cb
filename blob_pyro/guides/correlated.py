"""Posteriors whose entries within a layer are correlated, each with another covariance."""

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from typing_extensions import override

from blob_pyro.distributions import MatrixNormal, MatrixShaped
from blob_pyro.guides.lora_guide import LoraGuide
from blob_pyro.guides.site_parameters import check_init_scale, initial_root
from blob_pyro.models import BayesianLora
from blob_pyro.poutine import in_turn

# The factor of a full covariance is 64 MiB in float32; its gradient and Adam's state are as large
# again, each.
_MOST_ENTRIES = 4096
# Small, for a start at independent entries, but not zero, where the gradient of F vanishes.
_INIT_FACTOR = 0.01


class MatrixNormalGuide(LoraGuide):
    r"""A matrix normal for each layer, :math:`Cov(A_{ij}, A_{kl}) = U_{ik} V_{jl}`.

    On the full weight :math:`W = W_0 + s B A` this is again a matrix normal,
    :math:`Cov(W_{ij}, W_{kl}) = s^2 (B U B^\top)_{ik} V_{jl}`.  With rank 1 every covariance of a
    layer has this form.  A layer with n inputs takes :math:`n^2` numbers.

    Its entries are not independent, so ``flipout`` refuses it.  One parameter scales a whole row or
    column, so under plain gradient steps (the KL's in ``DecoupledSVI``) it widens sooner than a
    guide with a scale for each entry.

    Parameters
    ----------
    model
        A model of :mod:`blob_pyro.models`; ``M`` starts at its adapter's own weights.
    init_scale
        At the start the entries are independent, each with the standard deviation
        ``init_scale``.  That is a constant: random factors would not make random entries.

    Raises
    ------
    ValueError
        If ``init_scale`` is not positive and finite.

    Examples
    --------
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS", target_modules=["query"])
    >>> guide = MatrixNormalGuide(SequenceClassifier(net, num_data=10))
    >>> [tuple(scale.shape) for scale in guide.scale().values()]
    [(2, 16), (2, 16)]
    >>> bool(guide.kl() > 0)
    True

    References
    ----------
    Louizos and Welling, "Structured and Efficient Variational Deep Learning with Matrix Gaussian
    Posteriors", ICML 2016.
    """

    independent_entries = False

    def __init__(self, model: BayesianLora, init_scale: float = 0.0025) -> None:
        self.init_scale = check_init_scale(init_scale)
        super().__init__(model)
        # Rows and columns bear equal parts, so that one learning rate suits both.
        root = init_scale**0.25
        self.row_root = self.each(lambda mean: root * torch.eye(mean.shape[0]).to(mean))
        self.col_root = self.each(lambda mean: root * torch.eye(mean.shape[1]).to(mean))

    @override
    def site_posterior(self, name: str) -> TorchDistributionMixin:
        return MatrixNormal(
            self.M.pyro_param("M", name),
            scale_tril(self.row_root.pyro_param("row_root", name)),
            scale_tril(self.col_root.pyro_param("col_root", name)),
            validate_args=False,
        )

    @override
    def scale(self) -> dict[str, torch.Tensor]:
        return {name: torch.outer(*map(_row_norms, self._factors(name))) for name in self.sites}

    def _factors(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        roots = self.row_root[name].detach(), self.col_root[name].detach()
        return scale_tril(roots[0]), scale_tril(roots[1])

    @override
    def variance_of_update(self, name: str, left: torch.Tensor) -> torch.Tensor:
        rows, columns = self._factors(name)
        return torch.outer(_row_norms(left @ rows), _row_norms(columns)).square()


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
        if num_factors < 1:
            raise ValueError(f"num_factors={num_factors}: give 1 or more")
        self.init_scale = check_init_scale(init_scale)
        super().__init__(model)
        self.num_factors = num_factors
        self.G = self.each(lambda mean: initial_root(mean, init_scale))
        with in_turn():
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
        self.init_scale = check_init_scale(init_scale)
        for name, site in model.sites.items():
            size = site.projection.initial_weight.numel()
            if size > _MOST_ENTRIES:
                raise ValueError(
                    f"site {name!r} has {size} entries, more than the {_MOST_ENTRIES} of a "
                    "full covariance; use LowRankPlusDiagonalGuide or MatrixNormalGuide"
                )
        super().__init__(model)
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


def scale_tril(root: torch.Tensor) -> torch.Tensor:
    r"""Give the lower triangular :math:`L_{ij} = G_{ii}^2 ([i = j] + [i > j] G_{ij})`.

    The diagonal is a square, as the scale of :class:`LowRankGaussianGuide` is.  What is below it
    is relative to the scale of its row, so that one learning rate suits small scales and large.

    Parameters
    ----------
    root
        Any square :math:`G`, shape ``(..., d, d)``; what is above its diagonal has no effect.

    Returns
    -------
    torch.Tensor
        Shape ``(..., d, d)``, the diagonal not negative.

    Examples
    --------
    >>> scale_tril(torch.tensor([[2.0, 7.0], [0.5, 3.0]]))
    tensor([[4.0000, 0.0000],
            [4.5000, 9.0000]])
    """
    scale = root.diagonal(dim1=-2, dim2=-1).square()
    return scale[..., None] * root.tril(-1) + scale.diag_embed()


def _row_norms(factor: torch.Tensor) -> torch.Tensor:
    return factor.norm(dim=-1)
