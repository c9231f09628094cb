"""A file that is there whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def atomic_folder(folder: str | Path, replaces: Sequence[str] = ()) -> Iterator[Path]:
    """Write a folder that takes its place when it is finished.

    Parameters
    ----------
    folder
        Where to; the folder above it is made if absent.
    replaces
        Names of the files that it has.  If the folder exists, these are replaced all at once, and
        whatever else it holds stays.

    Yields
    ------
    pathlib.Path
        A draft beside it.  If writing fails, the draft is removed and an older folder stays.

    Examples
    --------
    >>> above = Path(tempfile.mkdtemp())
    >>> with atomic_folder(above / "new") as draft:
    ...     _ = (draft / "a.txt").write_text("whole")
    >>> [path.name for path in above.iterdir()]
    ['new']
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield draft
        _swap(draft, folder, replaces)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_new(folder: Path) -> None:
    """Raise a ``ValueError`` if there is already something where a new folder shall be."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty; give a new folder")


def _swap(draft: Path, folder: Path, replaces: Sequence[str]) -> None:
    if not folder.exists():
        os.rename(draft, folder)
        return
    old = draft.with_name(f"{draft.name}-old")
    os.rename(folder, old)
    try:
        os.rename(draft, folder)
    except BaseException:
        os.rename(old, folder)
        raise
    for path in old.iterdir():
        if path.name not in replaces:
            os.rename(path, folder / path.name)
    shutil.rmtree(old)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Write a file that takes its place when it is finished.

    Parameters
    ----------
    path
        Where to; its folder is made if absent.

    Yields
    ------
    IO[bytes]
        A draft beside it.  If writing fails, the draft is removed and an older file stays.

    Examples
    --------
    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_file(folder / "new" / "a.txt") as file:
    ...     _ = file.write(b"whole")
    >>> [path.name for path in (folder / "new").iterdir()]
    ['a.txt']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            # A name may reach the disk before its content does, if the machine goes down.
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise
