"""A setting of the CPU that training needs."""

from __future__ import annotations

import torch


def flush_denormals() -> None:
    """Let the CPU take numbers below 1e-38 for zero.

    Gradients of tokens far from the answer become that small, and some CPUs then compute several
    times slower.  Threads inherit the setting when they start, so call this before the first
    tensor operation of a program; :func:`fit` calls it too, which is late for threads that run.
    """
    torch.set_flush_denormal(True)
