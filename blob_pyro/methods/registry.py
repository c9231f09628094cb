"""All methods by name; a new one is a line here."""

from __future__ import annotations

from blob_pyro.methods.deep_ensemble import ENS
from blob_pyro.methods.dropout import MCD
from blob_pyro.methods.gaussian import BBB, BLOB
from blob_pyro.methods.method import Method
from blob_pyro.methods.plain_lora import MAP, MLE, ZERO_SHOT
from blob_pyro.methods.temperature import TEMPERATURE

_ALL = (ZERO_SHOT, MLE, MAP, MCD, ENS, BBB, BLOB, TEMPERATURE)

METHODS: dict[str, Method] = {method.name: method for method in _ALL}


def find_method(name: str) -> Method:
    """Give a method by its name.

    Raises
    ------
    ValueError
        If there is none of that name.

    Examples
    --------
    >>> find_method("blob").objective
    'posterior'
    """
    if name not in METHODS:
        raise ValueError(f"method={name!r} is unknown; use one of {[*METHODS]}")
    return METHODS[name]
