"""A network that runs every draw and answers with their average."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import LogitsProcessor


class AveragedNetwork(LogitsProcessor):
    r"""Makes a language model look like one whose next-token probabilities are an average.

    Inside, each row runs once for every draw, each with a cache of its own; outside there is one
    row, with the logits :math:`\log \frac{1}{K} \sum_k p_k(v)`.  Whatever decodes from them decodes
    one common text, and sampling, stopping and penalties are applied to the average.

    As a logits processor it changes nothing and notes the uncertainty of every token to come.

    Parameters
    ----------
    num_draws
        Number of draws K, whose weights the network holds.
    """

    def __init__(self, num_draws: int) -> None:
        self.num_draws = num_draws
        self._log_probs = torch.empty(0)
        self._notes: list[tuple[torch.Tensor, torch.Tensor]] = []

    @contextmanager
    def over(self, network: nn.Module) -> Iterator[None]:
        """Answer in the place of a network for a while."""
        hooks = [
            network.register_forward_pre_hook(self._tile, with_kwargs=True),
            network.register_forward_hook(self._average),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _tile(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        rows = len(kwargs["input_ids"])
        tiled = {
            name: value.repeat(self.num_draws, *[1] * (value.dim() - 1))
            for name, value in kwargs.items()
            if isinstance(value, torch.Tensor) and value.dim() > 1 and len(value) == rows
        }
        return args, {**kwargs, **tiled}

    def _average(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        logits = output.logits[:, -1].float()
        self._log_probs = logits.reshape(self.num_draws, -1, logits.shape[-1]).log_softmax(-1)
        mean = self._log_probs.logsumexp(0) - math.log(self.num_draws)
        output.logits = mean[:, None]
        return output

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Note the uncertainty of the next token, and give the scores back as they are."""
        mean = self._log_probs.logsumexp(0) - math.log(self.num_draws)
        total = _entropy(mean)
        self._notes.append((total, (total - _entropy(self._log_probs).mean(0)).clamp(min=0)))
        return scores

    def uncertainty(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Give total and epistemic uncertainty of all tokens so far, ``rows x S`` each, nats."""
        total, epistemic = zip(*self._notes, strict=True)
        return torch.stack(total, dim=1), torch.stack(epistemic, dim=1)


def _entropy(log_probs: torch.Tensor) -> torch.Tensor:
    # A token that is impossible adds nothing, where -inf times 0 would be no number.
    return -(log_probs.exp() * log_probs.clamp(min=torch.finfo(log_probs.dtype).min)).sum(-1)
