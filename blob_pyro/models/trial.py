"""Trying a network out, and leaving no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pyro import poutine
from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout off for a while."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def trial(model: nn.Module) -> Iterator[None]:
    """Run a model for a while without a trace: no dropout, gradient, statement or random number."""
    with torch.no_grad(), evaluation_mode(model), poutine.block(), torch.random.fork_rng():
        yield
