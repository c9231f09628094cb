"""How long and how fast to train."""

import math
from typing import Self

from pydantic import Field

from blob_pyro.infer.kl_weight import ScaleUpdates
from blob_pyro.settings import Settings

# docs/defaults.md says what was tried.
_EXAMPLES = 224
_LEAST_STEPS = 200


def default_num_steps(num_data: int, examples_per_step: int) -> int:
    r"""Give the length of a run from the size of its data: :math:`224 \sqrt{N}` examples.

    A small table is gone through often (16 times for 200 examples), a large one a few times (twice
    for 10,000), and no run is shorter than 200 steps, which a head needs that starts at random.

    Parameters
    ----------
    num_data
        Number of training examples N.
    examples_per_step
        Size of the global batch.

    Returns
    -------
    int
        Gradient steps.

    Examples
    --------
    >>> [default_num_steps(num_data, 8) for num_data in (16, 128, 1000, 10_000)]
    [200, 317, 886, 2800]
    """
    return max(_LEAST_STEPS, math.ceil(_EXAMPLES * math.sqrt(num_data) / examples_per_step))


def flush_denormals() -> None:
    """Let the CPU take numbers below 1e-38 for zero.

    Gradients of tokens far from the answer become that small, and some CPUs then compute several
    times slower.  Threads inherit the setting when they start, so call this before the first
    tensor operation of a program; :func:`fit` calls it too, which is late for threads that run.
    """
    import torch

    torch.set_flush_denormal(True)


class TrainingConfig(Settings):
    """How long and how fast to train.

    Raises
    ------
    ValueError
        If a setting is unknown, or a value out of its range.
    """

    num_steps: int | None = Field(default=None, ge=1)
    """Gradient steps; None for as many as ``blob_pyro.training.default_num_steps`` gives for the
    data."""

    batch_size: int = Field(default=8, ge=1)
    """Examples that a process computes at a time."""

    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak rate of AdamW for ``B`` and the posterior means ``M``."""

    head_learning_rate: float | None = Field(default=3e-3, gt=0)
    """Peak rate of AdamW for a classification head, which starts at random; None for
    ``learning_rate``."""

    scale_learning_rate: float = Field(default=1e-3, gt=0)
    """Peak rate of AdamW for the rest of the guide, such as ``G``."""

    kl_learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate of an SGD that descends the KL alone, after AdamW's step on the likelihood, as in
    the paper; ``blob_pyro.infer.DecoupledSVI``.  None lets AdamW descend the whole loss."""

    scale_updates: ScaleUpdates = "kl_optim"
    """What moves the posterior's scales where ``kl_learning_rate`` is set, the KL's optimiser or
    both."""

    warmup_fraction: float = Field(default=0.06, ge=0, le=1)
    """Share of the steps in which the rates rise linearly; then they fall linearly to zero."""

    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decay of ``B``, which has no prior unless it is latent; nothing else decays."""

    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm; None for no clipping."""

    flipout: bool = True
    """Whether examples get decorrelated noise, see ``blob_pyro.poutine.flipout``."""

    seed: int = Field(default=0, ge=0)
    """Seed of everything random.  ``blob_pyro.training.fit`` by itself takes the order of the
    examples from it, and noise from where ``pyro.set_rng_seed`` was left."""

    accumulation_steps: int = Field(default=1, ge=1)
    """Passes whose gradients make one step, which is on ``batch_size`` times this times the number
    of processes examples."""

    gradient_checkpointing: bool = False
    """Compute the network's layers again in the backward pass, for less memory and more time."""

    compile: bool = False
    """Compile the network by ``torch.compile``."""

    validate_every: int | None = Field(default=None, ge=1)
    """Steps between two looks at validation data, whose best state is kept; None for none."""

    def examples_per_step(self, num_processes: int) -> int:
        """Give the size of the global batch, which is what a gradient step is on.

        Examples
        --------
        >>> TrainingConfig(batch_size=4, accumulation_steps=2).examples_per_step(num_processes=8)
        64
        """
        return self.batch_size * self.accumulation_steps * num_processes

    def for_data(self, num_data: int, num_processes: int = 1) -> Self:
        """Give the same with the number of steps filled in.

        Examples
        --------
        >>> TrainingConfig(batch_size=8).for_data(256).num_steps
        448
        """
        if self.num_steps is not None:
            return self
        steps = default_num_steps(num_data, self.examples_per_step(num_processes))
        return self.changed(num_steps=steps)

    @property
    def total_steps(self) -> int:
        """Gradient steps, a number.

        Raises
        ------
        ValueError
            If it follows from data that nobody has named yet.
        """
        if self.num_steps is None:
            raise ValueError("num_steps=None follows from the data; call for_data(num_data) first")
        return self.num_steps

    @property
    def num_warmup_steps(self) -> int:
        """Steps in which the rates rise."""
        return round(self.warmup_fraction * self.total_steps)
