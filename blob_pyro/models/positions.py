"""Position ids that skip the padding, for networks that take them."""

from __future__ import annotations

import inspect

import torch
from peft import PeftModel


class Positions:
    """Adds ``position_ids`` to a batch where the network needs them to skip padding.

    Parameters
    ----------
    net
        A PEFT model; one that takes no ``position_ids``, or skips padding itself with positions
        that do not start at 0, is left to it.
    """

    def __init__(self, net: PeftModel) -> None:
        signature = inspect.signature(net.get_base_model().forward).parameters
        self._taken = "position_ids" in signature and not _counts_positions(net)

    def add(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Give a batch with the positions of its real tokens, counted from 0."""
        if not self._taken or "position_ids" in batch:
            return batch
        positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return {**batch, "position_ids": positions}


def _counts_positions(net: PeftModel) -> bool:
    return any(hasattr(module, "create_position_ids_from_input_ids") for module in net.modules())
