"""A Gaussian over matrices that varies along a few directions only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NoReturn

import torch
from pyro.distributions import Normal, constraints
from torch.distributions import Independent, kl_divergence, register_kl
from typing_extensions import override

from blob_pyro.distributions.located import Located, normal_entries


class SubspaceNormal(Located):
    r"""A Gaussian over :math:`r \times n` matrices in k directions, :math:`k < r n`.

    .. math:: A = M + \sum_{i=1}^{k} \sigma_i \epsilon_i u_i v_i^\top, \qquad
        \epsilon_i \sim N(0, 1).

    The directions :math:`u_i v_i^\top` are orthonormal, so the *coordinates*
    :math:`u_i^\top A v_i` are independent :math:`N(u_i^\top M v_i, \sigma_i^2)`.  Elsewhere it has
    no mass, hence no density over matrices; its KL divergence from a prior that does have one is
    taken on the subspace, see :func:`kl_from_normal_on_subspace`.

    Parameters
    ----------
    loc
        Mean :math:`M`, shape ``(..., r, n)``.
    left
        Columns :math:`u_i`, shape ``(..., r, k)``.
    scale
        Standard deviations :math:`\sigma_i` of the coordinates, shape ``(..., k)``.
    right
        Rows :math:`v_i^\top`, shape ``(..., k, n)``.  The leading dimensions of the four are
        broadcast.

    Raises
    ------
    ValueError
        If the shapes do not belong together, or (with ``validate_args``) the directions are not
        orthonormal.

    Examples
    --------
    >>> q = SubspaceNormal(torch.zeros(2, 3), torch.eye(2), torch.ones(2), torch.eye(3)[:2])
    >>> q.variance
    tensor([[1., 0., 0.],
            [0., 1., 0.]])
    >>> q.rsample((5,)).shape
    torch.Size([5, 2, 3])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.independent(constraints.real, 2),
        "left": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 1),
        "right": constraints.independent(constraints.real, 2),
    }

    def __init__(
        self,
        loc: torch.Tensor,
        left: torch.Tensor,
        scale: torch.Tensor,
        right: torch.Tensor,
        validate_args: bool | None = None,
    ) -> None:
        (r, n), k = loc.shape[-2:], scale.shape[-1]
        if left.shape[-2:] != (r, k) or right.shape[-2:] != (k, n):
            raise ValueError(
                f"left has shape {(*left.shape,)} and right {(*right.shape,)}, but a mean of shape "
                f"{(*loc.shape,)} and {k} scales need (..., {r}, {k}) and (..., {k}, {n})"
            )
        batch_shape = torch.broadcast_shapes(
            loc.shape[:-2], left.shape[:-2], scale.shape[:-1], right.shape[:-2]
        )
        self.loc = loc.expand(batch_shape + loc.shape[-2:])
        self.left, self.scale, self.right = left, scale, right
        super().__init__(batch_shape, loc.shape[-2:], validate_args=validate_args)
        if self._validate_args:
            _check_orthonormal(left, right)

    @property
    def variance(self) -> torch.Tensor:
        """Variances of the entries, shape ``(..., r, n)``."""
        rows = self.left.square() * self.scale.square()[..., None, :]
        return (rows @ self.right.square()).expand_as(self.loc)

    @property
    def coordinates(self) -> Normal:
        r"""The distribution of :math:`u_i^\top A v_i`, shape ``(..., k)``, independent."""
        loc = self.coordinates_of(self.loc)
        return Normal(loc, self.scale.expand_as(loc), validate_args=False)

    def coordinates_of(self, matrix: torch.Tensor) -> torch.Tensor:
        r"""Give :math:`u_i^\top X v_i` of a matrix, ``(..., r, n)`` to ``(..., k)``."""
        return ((self.left.mT @ matrix) * self.right).sum(-1)

    @override
    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> torch.Tensor:
        """Draw matrices that gradients flow through."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.scale.shape[-1:]
        noise = self.scale * self.loc.new_empty(shape).normal_()
        return self.loc + (self.left * noise[..., None, :]) @ self.right

    @override
    def log_prob(self, value: torch.Tensor) -> NoReturn:
        """Refuse: there is no density over matrices."""
        raise NotImplementedError(
            "a SubspaceNormal has no density over matrices; its KL needs ReweightedTrace_ELBO and "
            "a prior Normal(loc, scale).to_event(2) with one scale a site"
        )


def _check_orthonormal(left: torch.Tensor, right: torch.Tensor) -> None:
    gram = (left.mT @ left) * (right @ right.mT)
    error = (gram - torch.eye(gram.shape[-1]).to(gram)).abs().max()
    if error > 100 * torch.finfo(gram.dtype).eps:
        raise ValueError(
            f"the directions are not orthonormal: their inner products differ from the identity "
            f"by {float(error):.2g}; take left and right from torch.linalg.svd"
        )


@register_kl(SubspaceNormal, Independent)
def kl_from_normal_on_subspace(
    posterior: SubspaceNormal, prior: Independent[Normal]
) -> torch.Tensor:
    r"""KL divergence on the subspace: of the coordinates, from the prior restricted to it.

    Of a prior :math:`A_{ij} \sim N(\mu_{ij}, \sigma_p^2)` the coordinates on the subspace have the
    density :math:`N(u_i^\top \mu v_i, \sigma_p^2)`, whether the prior is conditioned on the
    subspace or projected onto it, so

    .. math:: KL(q, p) = \sum_i \left[ \log \frac{\sigma_p}{\sigma_i} +
        \frac{\sigma_i^2 + (u_i^\top (M - \mu) v_i)^2}{2 \sigma_p^2} - \frac{1}{2} \right].

    Parameters
    ----------
    posterior
        :math:`q`, event shape ``(r, n)``.
    prior
        :math:`p`, independent normal entries of the same event shape and one scale; batch shapes
        are broadcast.

    Returns
    -------
    torch.Tensor
        Nats, one number for each member of the batch.

    Raises
    ------
    NotImplementedError
        If the prior is no matrix of independent normals, or its entries have several scales.

    Examples
    --------
    >>> posterior = SubspaceNormal(
    ...     torch.zeros(2, 3), torch.eye(2), torch.full((2,), 0.5), torch.eye(3)[:2])
    >>> prior = Independent(Normal(torch.zeros(2, 3), 1.0), 2)
    >>> round(float(kl_divergence(posterior, prior)), 4)  # 2 (log 2 + (1/4 - 1) / 2)
    0.6363
    """
    base = normal_entries(prior, posterior.event_shape)
    scale = _common_scale(base.scale)[..., None]
    restricted = Normal(posterior.coordinates_of(base.loc), scale, validate_args=False)
    kl = kl_divergence(posterior.coordinates, restricted).sum(-1)
    return kl.expand(torch.broadcast_shapes(posterior.batch_shape, prior.batch_shape))


def _common_scale(scale: torch.Tensor) -> torch.Tensor:
    """Give the one scale of all entries, ``(..., r, n)`` to ``(...)``."""
    first = scale[..., :1, :1]
    # One number that was expanded shows in the strides, without a wait for the device.
    if scale.stride()[-2:] != (0, 0) and not bool((scale == first).all()):
        raise NotImplementedError(
            "the prior has several scales in one site, so its coordinates on a subspace are "
            "correlated; give one scale a site"
        )
    return first[..., 0, 0]
