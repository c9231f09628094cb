"""Trying a network out, and leaving no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pyro import poutine
from torch import nn

from blob_pyro.models.without_dropout import without_dropout


@contextmanager
def trial(model: nn.Module) -> Iterator[None]:
    """Run a model for a while without a trace: no dropout, gradient, statement or random number."""
    with torch.no_grad(), without_dropout(model), poutine.block(), torch.random.fork_rng():
        yield
