"""A posterior whose rows and columns are correlated: a matrix normal on ``A``."""

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from typing_extensions import override

from blob_pyro.distributions import MatrixNormal
from blob_pyro.guides.lora_guide import LoraGuide
from blob_pyro.guides.scale_tril import check_init_scale, scale_tril
from blob_pyro.models import BayesianLora


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
        super().__init__(model)
        self.init_scale = check_init_scale(init_scale)
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


def _row_norms(factor: torch.Tensor) -> torch.Tensor:
    return factor.norm(dim=-1)
