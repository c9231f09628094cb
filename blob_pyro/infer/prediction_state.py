"""States that a prediction borrows: evaluation mode, and random numbers of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and each of its modules back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def own_random_state(seed: int | None) -> Iterator[None]:
    """Put the global random state back afterwards, unless the seed is None; nothing is seeded."""
    with torch.random.fork_rng(enabled=seed is not None):
        yield
