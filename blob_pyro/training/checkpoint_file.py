"""One checkpoint as one safetensors file that knows its own checksum."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from blob_pyro.atomic_file import atomic_file
from blob_pyro.training.state_tree import Tensors, flatten, unflatten


class DamagedCheckpointError(ValueError):
    """A file that is no whole checkpoint."""


def write_checkpoint(path: Path, state: Any) -> None:
    """Write a nested state, whole or not at all.

    Parameters
    ----------
    path
        Where to; an older file there is replaced.
    state
        See :func:`blob_pyro.training.state_tree.flatten`.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    tree, tensors = flatten(state)
    text = json.dumps(tree)
    metadata = {"state": text, "sha256": _digest(text, tensors)}
    with atomic_file(path) as file:
        file.write(save(tensors, metadata))


def read_checkpoint(path: Path) -> Any:
    """Read what :func:`write_checkpoint` wrote.

    Raises
    ------
    DamagedCheckpointError
        If the file cannot be read, is cut short or differs in one bit from what was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = metadata["state"]
        if metadata["sha256"] != _digest(text, tensors):
            raise DamagedCheckpointError(f"{path} is damaged (its checksum differs)")
        return unflatten(json.loads(text), tensors)
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(f"{path} is damaged ({error})") from error


def _digest(text: str, tensors: Tensors) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
