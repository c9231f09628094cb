"""Draws from a guide, each a value for every latent site: a function of the input."""

from collections.abc import Callable
from typing import Any, cast

import torch
from pyro import poutine

from blob_pyro.guides.lora_guide import Batch, Draw
from blob_pyro.poutine import taking_turns

Guide = Callable[..., Any]


def posterior_draws(guide: Guide, num_samples: int, batch: Batch) -> list[Draw]:
    """Draw every latent site of a guide.

    Parameters
    ----------
    guide
        Any Pyro guide.
    num_samples
        Number of draws K; 0 gives the one "draw" that is the guide's mean (a Pyro autoguide's
        median).
    batch
        Arguments for the guide's call; the guides of this library ignore them.

    Returns
    -------
    list of dict
        For each draw, site name to value.

    Raises
    ------
    ValueError
        If ``num_samples`` is negative, or 0 for a guide without a mean.
    """
    if num_samples % 1 or num_samples < 0:
        raise ValueError(f"num_samples={num_samples}: give the number of draws, or 0 for the mean")
    if hasattr(guide, "draws"):
        drawn: list[Draw] = guide.draws(num_samples)
        return drawn
    if num_samples == 0:
        return [_mean(guide, batch)]
    return [_draw(guide, batch) for _ in range(num_samples)]


def _draw(guide: Guide, batch: Batch) -> Draw:
    with taking_turns():
        trace = poutine.trace(guide).get_trace(**batch)
    return {
        name: cast(torch.Tensor, site["value"])
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not (site["infer"] or {}).get("is_auxiliary", False)
    }


def _mean(guide: Guide, batch: Batch) -> Draw:
    if hasattr(guide, "mean"):
        return dict(guide.mean())
    if hasattr(guide, "median"):
        return dict(guide.median(**batch))
    raise ValueError(
        f"num_samples=0 asks for the mean, but a {type(guide).__name__} has neither mean() nor "
        "median(); ask for draws (num_samples=10)"
    )
