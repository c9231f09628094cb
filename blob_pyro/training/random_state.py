"""The random states of a process: Python's, NumPy's and PyTorch's."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_state(device: torch.device) -> dict[str, Any]:
    """Give the states, as tensors and JSON values; ``device`` is the one that noise is drawn on."""
    numpy_state = np.random.get_state(legacy=False)
    generator = numpy_state["state"]
    state = {
        "python": random.getstate(),
        "numpy": {**numpy_state, "state": {**generator, "key": generator["key"].tolist()}},
        "torch": torch.get_rng_state(),
    }
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state()
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Go on with the noise from where :func:`random_state` was called."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "device" in state:
        torch.get_device_module(device).set_rng_state(state["device"])
