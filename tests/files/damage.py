"""Ways to damage a folder: each gives a function that does it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from blob_pyro.files.config import CONFIG_FILE, HASHED_FILES, sha256_of

Damage = Callable[[Path], None]


def entry(file: str, *path: Any, to: Any = ...) -> Damage:
    """Change an entry of a JSON file, or delete it."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        part = content
        for key in path[:-1]:
            part = part[key]
        if to is ...:
            del part[path[-1]]
        else:
            part[path[-1]] = to
        (folder / file).write_text(json.dumps(content))

    return damage


def tensors(file: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Damage:
    def damage(folder: Path) -> None:
        changed = {n: t.contiguous() for n, t in change(load_file(folder / file)).items()}
        save_file(changed, folder / file, metadata={"format": "pt"})

    return damage


def content(file: str, change: Callable[[bytes], bytes]) -> Damage:
    def damage(folder: Path) -> None:
        (folder / file).write_bytes(change((folder / file).read_bytes()))

    return damage


def gone(file: str) -> Damage:
    return lambda folder: (folder / file).unlink()


def fifo(file: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / file).unlink()
        os.mkfifo(folder / file)

    return damage


def vouch(folder: Path) -> None:
    """Write the checksums anew, as whoever alters a posterior on purpose would."""
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_bytes()) if path.is_file() else None
        config["sha256"] = {  # type: ignore[index]
            name: sha256_of(folder / name) for name in HASHED_FILES if (folder / name).is_file()
        }
        path.write_text(json.dumps(config))
    except (ValueError, TypeError, RecursionError):
        pass
