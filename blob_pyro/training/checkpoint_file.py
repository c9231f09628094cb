"""One checkpoint as one safetensors file that knows its own checksum."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from blob_pyro.files.atomic import atomic_file

Tensors = dict[str, torch.Tensor]


def flatten(state: Any) -> tuple[Any, Tensors]:
    """Take the tensors out of a nested state.

    Parameters
    ----------
    state
        Dictionaries (with string or integer keys), lists and tuples of tensors, numbers, strings,
        booleans and None, such as an optimiser's ``state_dict()``.

    Returns
    -------
    tree, tensors
        JSON values that say which tensor belongs where; the tensors, copied to the CPU.

    Raises
    ------
    TypeError
        If a value is of another kind; the message says where it is.

    Examples
    --------
    >>> tree, tensors = flatten({0: (torch.zeros(2), 0.1)})
    >>> tensors
    {'/0/0': tensor([0., 0.])}
    >>> unflatten(tree, tensors)
    {0: (tensor([0., 0.]), 0.1)}
    """
    tensors: Tensors = {}
    return _flatten(state, "", tensors), tensors


def _flatten(value: Any, path: str, tensors: Tensors) -> Any:
    if isinstance(value, torch.Tensor):
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": path}
    if isinstance(value, dict):
        return {"dict": [[key, _flatten(v, f"{path}/{key}", tensors)] for key, v in value.items()]}
    if isinstance(value, list | tuple):
        parts = [_flatten(v, f"{path}/{index}", tensors) for index, v in enumerate(value)]
        return {type(value).__name__: parts}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{path} is a {type(value).__name__}, which a checkpoint cannot hold; states are made of "
        "tensors, numbers, strings, lists and dictionaries"
    )


def unflatten(tree: Any, tensors: Tensors) -> Any:
    """Put the tensors back; the inverse of :func:`flatten`."""
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unflatten(value, tensors) for key, value in content}
    parts = [unflatten(value, tensors) for value in content]
    return tuple(parts) if kind == "tuple" else parts


class DamagedCheckpointError(ValueError):
    """A file that is no whole checkpoint."""


def write_checkpoint(path: Path, state: Any) -> None:
    """Write a nested state, whole or not at all.

    Parameters
    ----------
    path
        Where to; an older file there is replaced.
    state
        See :func:`blob_pyro.training.checkpoint_file.flatten`.

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
