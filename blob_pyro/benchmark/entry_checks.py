"""Checks of what a YAML file says, which may be anything."""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr as repr_short
from typing import Any

from blob_pyro.methods.method import KINDS


def mapping(what: str, value: Any) -> dict[str, Any]:
    """Give a value that has to have entries; ``what`` names it in the error.

    Raises
    ------
    ValueError
        If it is something else.

    Examples
    --------
    >>> mapping("tasks", ["openbookqa"])
    Traceback (most recent call last):
    ...
    ValueError: tasks is ['openbookqa'], which has no 'name: value' entries
    """
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {repr_short(value)}, which has no 'name: value' entries")
    return value


def numbers(what: str, value: Any) -> tuple[int, ...]:
    """Give a value that has to be a list of whole numbers, which is not empty.

    Raises
    ------
    ValueError
        If it is something else.

    Examples
    --------
    >>> numbers("seeds", [0, 1])
    (0, 1)
    """
    if not isinstance(value, list) or not value or not all(type(item) is int for item in value):
        raise ValueError(
            f"{what} is {repr_short(value)}; give a list of whole numbers, such as [0, 10]"
        )
    return tuple(value)


def check_type(what: str, value: Any, default: Any) -> None:
    """Raise if a value is not of a setting's kind, which its default tells.

    Raises
    ------
    ValueError
        With the value and what it should be.

    Examples
    --------
    >>> check_type("rank", "8", 0)
    Traceback (most recent call last):
    ...
    ValueError: rank is '8'; give a whole number
    """
    kind = type(default)
    if kind in (bool, int, str):
        right, wanted = type(value) is kind, KINDS[kind]
    elif isinstance(default, dict):
        right, wanted = isinstance(value, dict), "its options, such as {rate: 0.1}"
    elif isinstance(default, tuple):
        right, wanted = isinstance(value, list), "a list, such as [q_proj, v_proj]"
    else:
        right = isinstance(value, int | float) or value is None
        wanted = f"{KINDS[float]} (YAML needs the point of 1.0e-3)"
    if not right:
        raise ValueError(f"{what} is {repr_short(value)}; give {wanted}")


def check_keys(what: str, entry: Mapping[str, Any], known: set[str]) -> None:
    """Raise if an entry has a setting that nothing reads.

    Raises
    ------
    ValueError
        With the first such setting and those that are known.

    Examples
    --------
    >>> check_keys("method 'a'", {"rnak": 4}, {"rank"})
    Traceback (most recent call last):
    ...
    ValueError: method 'a' has the unknown setting 'rnak'; known are ['rank']
    """
    unknown = sorted(str(key) for key in entry if key not in known)
    if unknown:
        raise ValueError(
            f"{what} has the unknown setting {unknown[0]!r}; known are {sorted(known)}"
        )
