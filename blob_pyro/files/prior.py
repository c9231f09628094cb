"""The prior of a posterior, as its configuration holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from blob_pyro import lora
from blob_pyro.files.adapter import blaming
from blob_pyro.files.config import CONFIG_FILE
from blob_pyro.lora import HierarchicalNormalPrior, NormalPrior, Prior
from blob_pyro.models import BayesianLora, Classifier

# Public for those who derive from them, but nothing that could have been fitted.
_BASES = (BayesianLora, Classifier)


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


def prior_record(prior: Prior) -> dict[str, Any]:
    """Describe a prior: its class, and its arguments if it is one of this library's.

    Examples
    --------
    >>> prior_record(NormalPrior(0.2))
    {'class': 'NormalPrior', 'arguments': {'scale': 0.2}}
    >>> def wide(site):
    ...     return None
    >>> prior_record(wide)
    {'class': 'wide', 'arguments': None}
    """
    # A subclass may do anything else, which its arguments do not tell.
    if type(prior) in (NormalPrior, HierarchicalNormalPrior):
        known = cast(NormalPrior, prior)
        return {"class": type(prior).__name__, "arguments": known.config()}
    return {"class": getattr(prior, "__qualname__", type(prior).__qualname__), "arguments": None}


def recorded_prior(folder: Path, record: dict[str, Any], given: Prior | None) -> Prior:
    """Make the prior that a posterior was fitted under.

    Parameters
    ----------
    folder
        The posterior's, for errors.
    record
        From :func:`prior_record`.
    given
        The user's, needed for one of the user's own; else None.

    Raises
    ------
    ValueError
        If one is needed and not given, or another one is given than the record says.
    """
    if record["arguments"] is None:
        if given is None:
            raise ValueError(
                f"{folder} was fitted under the prior {record['class']}, which is not one of "
                "blob_pyro's; pass prior=... to load_posterior"
            )
        return given
    if given is not None and prior_record(given) != record:
        raise ValueError(
            f"{folder} was fitted under {record['class']}({record['arguments']}) but prior is "
            f"{given}; leave prior out"
        )
    known = known_class(folder, lora, record["class"], object)
    with blaming(folder / CONFIG_FILE):
        prior: Prior = known(**record["arguments"])
    return prior
