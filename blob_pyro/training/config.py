"""How long and how fast to train."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import torch

from blob_pyro.infer import SpreadUpdates


def flush_denormals() -> None:
    """Let the CPU take numbers below 1e-38 for zero.

    Gradients of tokens far from the answer become that small, and some CPUs then compute several
    times slower.  Threads inherit the setting when they start, so call this before the first
    tensor operation of a program; :func:`fit` calls it too, which is late for threads that run.
    """
    torch.set_flush_denormal(True)


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast to train.

    Parameters
    ----------
    num_steps
        Gradient steps.
    batch_size
        Examples that a process computes at a time.
    accumulation_steps
        How many times it does so for one gradient step: a step is on ``batch_size`` times
        ``accumulation_steps`` times the number of processes examples.
    learning_rate
        Peak rate of AdamW for ``B``, heads and the posterior means ``M``.
    scale_learning_rate
        Peak rate of AdamW for the rest of the guide, such as ``G``.
    kl_learning_rate
        Peak rate of an SGD that descends the KL alone, after AdamW's step on the likelihood: the
        paper's inference, :class:`blob_pyro.infer.DecoupledSVI`.  None: AdamW descends the whole
        loss.
    spread_updates
        With ``kl_learning_rate``: what moves ``G``, see :class:`blob_pyro.infer.DecoupledSVI`.
    warmup_fraction
        Share of the steps in which the rates rise linearly; then they fall linearly to zero.
    weight_decay
        AdamW's decay of ``B``, which has no prior unless it is latent; nothing else decays.
    max_grad_norm
        Gradients are clipped to this norm; None for no clipping.
    flipout
        Whether examples get decorrelated noise (see :func:`blob_pyro.poutine.flipout`).
    seed
        Seed of the order of the data.
    gradient_checkpointing
        Recompute the network's layers in the backward pass: less memory, more time.
    compile
        Compile the network by ``torch.compile``.
    validate_every
        Steps between two looks at validation data, whose best state is the one that is kept; None
        for none.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    num_steps: int = 200
    batch_size: int = 8
    learning_rate: float = 2e-3
    scale_learning_rate: float = 1e-3
    kl_learning_rate: float | None = None
    spread_updates: SpreadUpdates = "kl_optim"
    warmup_fraction: float = 0.06
    weight_decay: float = 0.0
    max_grad_norm: float | None = 1.0
    flipout: bool = True
    seed: int = 0
    accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    compile: bool = False
    validate_every: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "accumulation_steps", "validate_every"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ValueError(f"{name}={count} must be at least 1")
        for name in ("learning_rate", "scale_learning_rate", "kl_learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}={value} must be positive and finite")
        if self.spread_updates not in get_args(SpreadUpdates):
            raise ValueError(
                f"spread_updates={self.spread_updates!r} is unknown; use one of "
                f"{[*get_args(SpreadUpdates)]}"
            )
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay={self.weight_decay} must be finite and not negative")
        if not 0 <= self.warmup_fraction <= 1:
            raise ValueError(f"warmup_fraction={self.warmup_fraction} must lie between 0 and 1")

    def examples_per_step(self, num_processes: int) -> int:
        """Give the size of the global batch, which is what a gradient step is on.

        Examples
        --------
        >>> TrainingConfig(batch_size=4, accumulation_steps=2).examples_per_step(num_processes=8)
        64
        """
        return self.batch_size * self.accumulation_steps * num_processes

    @property
    def num_warmup_steps(self) -> int:
        """Steps in which the rates rise."""
        return round(self.warmup_fraction * self.num_steps)
