"""A Cholesky factor from an unconstrained square matrix."""

from __future__ import annotations

import math

import torch


def check_init_scale(init_scale: float) -> float:
    """Give an initial scale back, or raise a ``ValueError``.

    Parameters
    ----------
    init_scale
        Standard deviation that a posterior starts with; positive and finite.

    Examples
    --------
    >>> check_init_scale(0.0025)
    0.0025
    """
    if not 0 < init_scale < math.inf:
        raise ValueError(
            f"init_scale={init_scale} must be positive and finite: it is the posterior's initial "
            "standard deviation (the paper's is 0.0025)"
        )
    return init_scale


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
