"""The check of a guide's initial scale."""

from __future__ import annotations

import math


def check_init_scale(init_scale: float) -> float:
    """Give an initial scale back, or raise a ``ValueError``.

    Parameters
    ----------
    init_scale
        Root of the standard deviation that a posterior starts with; positive and finite.

    Examples
    --------
    >>> check_init_scale(0.05)
    0.05
    """
    if not 0 < init_scale < math.inf:
        raise ValueError(
            f"init_scale={init_scale} must be positive and finite (the paper uses 0.05): it is "
            "the root of the posterior's initial standard deviation"
        )
    return init_scale
