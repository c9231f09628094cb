"""The configuration of a saved posterior: its entries, and the files that it vouches for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from blob_pyro.files.adapter import ADAPTER_CONFIG, ADAPTER_FILE, read_json
from blob_pyro.files.atomic import recover

FORMAT_VERSION = 2
CONFIG_FILE = "posterior_config.json"
POSTERIOR_FILE = "posterior.safetensors"
HASHED_FILES = (ADAPTER_CONFIG, ADAPTER_FILE, POSTERIOR_FILE)

_Kinds = type | tuple[type, ...]
_NONE = type(None)
_ENTRIES: dict[str, dict[str, _Kinds] | _Kinds] = {
    "guide": {"class": str, "arguments": dict},
    "model": {
        "class": str,
        "arguments": dict,
        "num_data": int,
        "num_classes": (int, _NONE),
        "prior": dict,
        "latent": list,
        "temperature": (float, list, _NONE),
    },
    "base_model": {
        "name": (str, _NONE),
        "saved_modules": list,
        "dtype": str,
        "shapes": str,
        "values": str,
    },
    "adapter": {"float32": bool},
    "task": dict,
    "method": (str, _NONE),
    "pooling": str,
    "sha256": dict.fromkeys(HASHED_FILES, str),
}
# What every model was before it could be otherwise.
_ABSENT_IN_1: dict[str, Any] = {"latent": ["A"], "temperature": 1.0}
# What a folder does not say that was written before there was such an entry.
_ABSENT: dict[str, Any] = {"method": None, "pooling": "head"}
_PRIOR: dict[str, _Kinds] = {"class": str, "arguments": (dict, _NONE)}


def read_posterior_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of a posterior and check the files beside it against it.

    Parameters
    ----------
    folder
        The posterior's folder.

    Returns
    -------
    dict
        With all entries that :func:`blob_pyro.load_posterior` needs, of the right types.

    Raises
    ------
    ValueError
        If it cannot be read, is of another version, lacks an entry, or a file beside it is missing
        or not the one that was saved.
    """
    if not folder.exists():
        recover(folder)
    path = folder / CONFIG_FILE
    config = {**_ABSENT, **read_json(path)}
    written = config.get("format_version")
    if written not in (1, FORMAT_VERSION):
        raise ValueError(
            f"{path} has format_version={written!r} but this library reads 1 and {FORMAT_VERSION}; "
            "use the version of blob_pyro that wrote it"
        )
    if written == 1 and isinstance(config.get("model"), dict):
        config["model"] = {**_ABSENT_IN_1, **config["model"]}
    for name, kinds in _ENTRIES.items():
        if isinstance(kinds, dict):
            _check_entry(path, name, config, dict)
            for inner, inner_kinds in kinds.items():
                _check_entry(path, inner, config[name], inner_kinds, f"{name}.")
        else:
            _check_entry(path, name, config, kinds)
    for name, inner_kinds in _PRIOR.items():
        _check_entry(path, name, config["model"]["prior"], inner_kinds, "model.prior.")
    if not isinstance(getattr(torch, config["base_model"]["dtype"], None), torch.dtype):
        raise ValueError(
            f"{path}: base_model.dtype is {config['base_model']['dtype']!r}, which is no dtype of "
            "torch; restore the folder from a copy"
        )
    # These names and no others: a name from the file could be a path to anywhere.
    for name in HASHED_FILES:
        _check_file(folder / name, config["sha256"][name])
    return config


def _check_entry(
    path: Path, name: str, entries: dict[str, Any], kinds: _Kinds, prefix: str = ""
) -> None:
    if name not in entries or not isinstance(entries[name], kinds):
        found = type(entries[name]).__name__ if name in entries else "absent"
        raise ValueError(
            f"{path}: the entry {prefix}{name} is {found}, which cannot be; restore the folder "
            "from a copy"
        )


def _check_file(path: Path, checksum: str) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is missing; restore the folder from a copy")
    if sha256_of(path) != checksum:
        raise ValueError(
            f"{path} is not the file that was saved (its checksum differs): it was cut short, "
            "changed or taken from elsewhere; restore the folder from a copy"
        )


def sha256_of(path: Path) -> str:
    """Compute the checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
