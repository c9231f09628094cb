"""The fingerprint of a network's frozen weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import nn


def base_identity(network: nn.Module, saved: Sequence[str] = ()) -> dict[str, str]:
    """Fingerprint the frozen weights of a network, with or without an adapter in it.

    Parameters
    ----------
    network
        The network that is fine-tuned.
    saved
        PEFT's ``modules_to_save``: parts that an adapter brings along, which are left out.

    Returns
    -------
    dict
        ``dtype`` of the norms, and SHA-256 digests: ``shapes`` of the names and shapes of all
        weights, ``values`` of a few values of each.
    """
    shapes, values = hashlib.sha256(), hashlib.sha256()
    dtype = "float32"
    for name, parameter in sorted(network.named_parameters()):
        plain = name.replace(".base_layer.", ".").replace(".original_module.", ".")
        if "lora_" in name or ".modules_to_save." in name or _is_saved(plain, saved):
            continue
        shapes.update(f"{plain}{tuple(parameter.shape)}".encode())
        values.update(_some_values(parameter).numpy().tobytes())
        if parameter.dim() == 1:
            dtype = str(parameter.dtype).removeprefix("torch.")
    return {"dtype": dtype, "shapes": shapes.hexdigest(), "values": values.hexdigest()}


def _some_values(parameter: torch.Tensor) -> torch.Tensor:
    flat = parameter.detach().flatten()
    return flat[:: max(1, len(flat) // 16)].float().cpu()


def _is_saved(name: str, saved: Sequence[str]) -> bool:
    # As PEFT does: by the end of a module's name, so that "classifier" is "pre_classifier" too.
    path = name.split(".")[:-1]
    modules = [".".join(path[: depth + 1]) for depth in range(len(path))]
    return any(module.endswith(end) for module in modules for end in saved)
