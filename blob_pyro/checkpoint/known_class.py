"""The classes that a file may name: those of this library, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blob_pyro.guides import LoraGuide
from blob_pyro.models import BayesianLora, Classifier
from blob_pyro.posterior_config import CONFIG_FILE

# Public for those who derive from them, but nothing that could have been fitted.
_BASES = (BayesianLora, Classifier, LoraGuide)


def known_class(folder: Path, room: Any, name: str, base: type) -> Any:
    """Give the class of a room by its name in a posterior's configuration.

    Raises
    ------
    ValueError
        If the room has no such class that is of the kind ``base``.
    """
    found = getattr(room, name, None) if name in room.__all__ else None
    if not isinstance(found, type) or not issubclass(found, base) or found in _BASES:
        raise ValueError(
            f"{folder / CONFIG_FILE} asks for the class {name!r}, which {room.__name__} does not "
            "have; use the version of blob_pyro that wrote it"
        )
    return found
