"""Several posterior draws in one forward pass, as many as memory holds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import pyro
import torch
from accelerate.utils.memory import should_reduce_batch_size
from pyro import poutine

from blob_pyro.infer.posterior_draws import Batch, Draw, stacked_draws
from blob_pyro.models import Classifier

# A CPU gains by fewer calls, and loses by temporaries that no longer fit its caches and free lists:
# examples/benchmarks/predictive.py.
_CPU_TOKENS = 1024


class DrawsAtOnce:
    """Runs a model under fixed draws, a group of them in each forward pass.

    In a group the inputs are tiled, and each projection is one batched product.

    Parameters
    ----------
    model
        The Pyro model.
    draws
        Site name to value, for each draw.
    parallel
        Draws a group: False for 1, a number, or True for as many as pay: all of them, on the CPU
        up to 1024 tokens a pass.  Where memory runs out, it is halved for good, with a warning.

    Raises
    ------
    ValueError
        If ``parallel`` is a number below 1.
    """

    def __init__(self, model: Classifier, draws: Sequence[Draw], parallel: bool | int) -> None:
        if parallel is not False and parallel < 1:
            raise ValueError(
                f"parallel={parallel}: give the number of draws in one forward pass, True for all "
                "of them or False for one"
            )
        self.model = model
        self.draws = draws
        self.size = len(draws) if parallel is True else max(1, int(parallel))
        self.chooses = parallel is True

    def logits(self, batch: Batch) -> torch.Tensor:
        """Give the logits of a batch of B under all K draws, ``K x B x C``, on the CPU."""
        while True:
            size = self._group_size(batch["input_ids"])
            groups = [self.draws[i : i + size] for i in range(0, len(self.draws), size)]
            try:
                return torch.cat([self._run(group, batch).cpu() for group in groups])
            except RuntimeError as error:
                if size == 1 or not should_reduce_batch_size(error):
                    raise
                self._halve(size)

    def _group_size(self, input_ids: torch.Tensor) -> int:
        if not (self.chooses and input_ids.device.type == "cpu"):
            return self.size
        return max(1, min(self.size, _CPU_TOKENS // input_ids.numel()))

    def _halve(self, size: int) -> None:
        self.size = size // 2
        warnings.warn(
            f"memory ran out with {size} draws in one forward pass; going on with "
            f"{self.size}. Pass parallel={self.size}, or make the batches smaller",
            stacklevel=4,
        )

    def _run(self, group: Sequence[Draw], batch: Batch) -> torch.Tensor:
        # With the labels, which the model checks.
        if len(group) == 1:
            logits: torch.Tensor = poutine.condition(self.model, group[0])(**batch)
            return logits[None]
        # Left of the model's own plate of data.
        with pyro.plate("draws", len(group), dim=-2):
            logits = poutine.condition(self.model, stacked_draws(group))(**batch)
        return logits
