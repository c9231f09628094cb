"""Nested states as JSON values and named tensors, so that no pickle is needed."""

from __future__ import annotations

from typing import Any

import torch

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
