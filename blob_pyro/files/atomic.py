"""Files and folders that are there whole or not at all, whenever a process is killed."""

import ctypes
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

_EXCHANGE = 2
_AT_WORKING_DIRECTORY = -100
# What renaming to a folder that is not empty ends with, and what moving a mounted one does.
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
_MOUNTED = (errno.EBUSY, errno.EXDEV)


@contextmanager
def atomic_folder(folder: str | Path, replaces: Sequence[str] = ()) -> Iterator[Path]:
    """Write a folder that takes its place when it is finished.

    At every moment the old folder or the new one is there, whole; what a killed process left is
    put right by the next one.

    Parameters
    ----------
    folder
        Where to; the folder above it is made if absent.  A symbolic link is followed.
    replaces
        Names of the files that it has.  If the folder exists, these are replaced all at once, and
        whatever else it holds stays.

    Yields
    ------
    pathlib.Path
        A draft beside it.  If writing fails, the draft is removed and an older folder stays.

    Examples
    --------
    >>> import tempfile
    >>> above = Path(tempfile.mkdtemp())
    >>> with atomic_folder(above / "new") as draft:
    ...     _ = (draft / "a.txt").write_text("whole")
    >>> [path.name for path in above.iterdir()]
    ['new']
    """
    folder = Path(os.path.realpath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _new_draft(folder) as draft:
        yield draft
        with _locked(folder.parent):
            _put(draft, folder, replaces)
            # After an exchange, this is the old folder.
            shutil.rmtree(draft, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put right what a process left that was killed while it replaced a folder."""
    if folder.parent.is_dir():
        with _locked(folder.parent):
            _recover(folder)


def _recover(folder: Path) -> None:
    for left in folder.parent.glob(f".{folder.name}-old-*"):
        if not folder.exists():
            os.rename(left, folder)
        else:
            shutil.rmtree(left, ignore_errors=True)
    for draft in folder.parent.glob(f".{folder.name}-draft-*"):
        with suppress(OSError), _locked(draft, wait=False):
            shutil.rmtree(draft, ignore_errors=True)


def check_writable(folder: str | Path) -> None:
    """Try whether :func:`atomic_folder` can put a folder there, and leave no trace of it.

    Raises
    ------
    ValueError
        If it cannot, with the system's reason: a read-only or full disk, a mount point, rights that
        are lacking, a name that is too long for that of a draft.

    Examples
    --------
    >>> check_writable("/dev/null/posterior")
    Traceback (most recent call last):
    ...
    ValueError: /dev/null/posterior cannot be written (File exists: /dev/null); give another folder
    """
    target = Path(os.path.realpath(folder))
    try:
        absent = [above for above in target.parents if not above.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _new_draft(target) as draft:
                with (draft / "file").open("xb") as file:
                    file.write(b"content")
                    file.flush()
                    os.fsync(file.fileno())
                if target.is_dir():
                    _try_to_move(target, draft)
        finally:
            for above in absent:
                with suppress(OSError):
                    above.rmdir()
    except OSError as error:
        hint = "a folder inside this mount point" if error.errno in _MOUNTED else "another folder"
        raise ValueError(
            f"{folder} cannot be written ({error.strerror}: {error.filename}); give {hint}"
        ) from error


def _try_to_move(folder: Path, draft: Path) -> None:
    """Try a move that has to fail, since the draft holds a file, and see whether it is for that."""
    try:
        os.rename(folder, draft)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise


def check_new(folder: Path) -> None:
    """Raise a ``ValueError`` if there is already something where a new folder shall be."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty; give a new folder")


def _beside(path: Path, kind: str = "draft") -> Path:
    return path.with_name(f".{path.name}-{kind}-{secrets.token_hex(8)}")


@contextmanager
def _new_draft(folder: Path) -> Iterator[Path]:
    """Make a draft beside a folder, locked, so that nobody takes it for a dead process's."""
    with ExitStack() as held:
        with _locked(folder.parent):
            _recover(folder)
            draft = _beside(folder)
            draft.mkdir()
            held.enter_context(_locked(draft))
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Lock a folder against this module in other processes; an ``OSError`` if it may not wait."""
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _put(draft: Path, folder: Path, replaces: Sequence[str]) -> None:
    try:
        os.rename(draft, folder)
        return
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
    shutil.copymode(folder, draft)
    _take_over(folder, draft, replaces)
    if not _exchange(draft, folder):
        old = _beside(folder, "old")
        os.rename(folder, old)
        try:
            os.rename(draft, folder)
        except BaseException:
            os.rename(old, folder)
            raise
        os.rename(old, draft)
    # What was written into the old folder meanwhile.
    _take_over(draft, folder, replaces)


def _take_over(source: Path, target: Path, replaces: Sequence[str]) -> None:
    """Give a folder the files of another one that are not to be replaced, by hard links."""
    for path in source.iterdir():
        if path.name in replaces:
            continue
        if path.is_dir() and not path.is_symlink():
            (target / path.name).mkdir(exist_ok=True)
            _take_over(path, target / path.name, ())
        elif not _is_same(path, target / path.name):
            _link(path, target / path.name)


def _is_same(path: Path, other: Path) -> bool:
    return os.path.lexists(other) and os.path.samestat(path.lstat(), other.lstat())


def _link(path: Path, target: Path) -> None:
    draft = _beside(target)
    try:
        os.link(path, draft, follow_symlinks=False)
    except OSError:
        shutil.copy2(path, draft, follow_symlinks=False)
    os.replace(draft, target)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; False where the system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    here = _AT_WORKING_DIRECTORY
    return bool(rename(here, names[0], here, names[1], ctypes.c_uint(_EXCHANGE)) == 0)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Write a file that takes its place when it is finished.

    Parameters
    ----------
    path
        Where to; its folder is made if absent.  A symbolic link is followed.

    Yields
    ------
    IO[bytes]
        A draft beside it.  If writing fails, the draft is removed and an older file stays.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_file(folder / "new" / "a.txt") as file:
    ...     _ = file.write(b"whole")
    >>> [path.name for path in (folder / "new").iterdir()]
    ['a.txt']
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _beside(path)
    try:
        with draft.open("xb") as file:
            yield file
            # A name may reach the disk before its content does, if the machine goes down.
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, draft)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
