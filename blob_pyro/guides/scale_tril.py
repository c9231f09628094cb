"""The spread of a guide from its parameters: how it starts, and Cholesky factors."""

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
            f"init_scale={init_scale} must be positive and finite: it is a standard deviation"
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


def initial_root(like: torch.Tensor, init_scale: float) -> torch.Tensor:
    """Draw roots whose squares, the scales, lie between a half of ``init_scale`` and all of it."""
    low, high = math.sqrt(init_scale / 2), math.sqrt(init_scale)
    return torch.empty_like(like, requires_grad=False).uniform_(low, high)
