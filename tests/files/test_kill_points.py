"""A process that is killed while it replaces a folder: old or new is whole at every moment."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from blob_pyro.files import atomic
from blob_pyro.files.atomic import atomic_file, atomic_folder, recover

FILES = ("config.json", "weights.bin")
CHANGES = [
    (os, "rename"),
    (os, "replace"),
    (os, "link"),
    (os, "mkdir"),
    (os, "unlink"),
    (os, "rmdir"),
    (shutil, "copymode"),
    (atomic, "_exchange"),
]


def die_at(limit: int, exchange: bool, folder: Path) -> int:
    """Save in a child that dies at its n-th change of the disk; its exit status."""
    child = os.fork()
    if child == 0:
        calls = itertools.count()

        def dying(function: Any) -> Any:
            def call(*args: Any, **options: Any) -> Any:
                if next(calls) >= limit:
                    os._exit(9)
                return function(*args, **options)

            return call

        if not exchange:
            atomic._exchange = lambda one, other: False
        for owner, name in CHANGES:
            setattr(owner, name, dying(getattr(owner, name)))
        save(folder, "new")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def save(folder: Path, content: str) -> None:
    with atomic_folder(folder, replaces=FILES) as draft:
        for name in FILES:
            (draft / name).write_text(content)


def make_old(folder: Path) -> None:
    (folder / "evaluations").mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text("old")
    (folder / "README.md").write_text("mine")
    (folder / "evaluations" / "a.npz").write_text("mine too")


def is_whole(folder: Path) -> bool:
    contents = {(folder / name).read_text() for name in FILES}
    return (
        contents in ({"old"}, {"new"})
        and (folder / "README.md").read_text() == "mine"
        and (folder / "evaluations" / "a.npz").read_text() == "mine too"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="exchanges by renameat2")
@pytest.mark.parametrize("exchange", [True, False])
def test_every_kill_leaves_a_whole_folder(exchange: bool, tmp_path: Path) -> None:
    outcomes = []
    for limit in range(60):
        folder = tmp_path / str(limit) / "posterior"
        make_old(folder)
        status = die_at(limit, exchange, folder)
        if not exchange:
            recover(folder)
        assert is_whole(folder)
        outcomes.append((folder / "config.json").read_text())
        # The next save finds its way, whatever was left.
        save(folder, "new")
        assert is_whole(folder)
        assert [path.name for path in folder.parent.iterdir()] == ["posterior"]
        if status == 0:
            break
    assert status == 0
    assert {*outcomes} == {"old", "new"}


def save_often(folder: Path, content: str) -> None:
    for _ in range(60):
        save(folder, content)


@pytest.mark.skipif(sys.platform != "linux", reason="exchanges by renameat2")
def test_readers_beside_two_savers_always_find_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "posterior"
    make_old(folder)
    context = multiprocessing.get_context("fork")
    savers = [context.Process(target=save_often, args=(folder, c)) for c in ("old", "new")]
    for saver in savers:
        saver.start()
    looks = 0
    while any(saver.is_alive() for saver in savers):
        # One open folder is one state, whatever takes its place.
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with open("README.md", opener=lambda p, f, d=descriptor: os.open(p, f, dir_fd=d)) as f:
                assert f.read() == "mine"
        except FileNotFoundError:
            # That folder has been replaced and removed since it was opened.
            assert (folder / "README.md").read_text() == "mine"
        finally:
            os.close(descriptor)
        looks += 1
    assert [saver.exitcode for saver in savers] == [0, 0]
    assert looks > 10
    assert is_whole(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["posterior"]


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("mask", "folder_mode", "file_mode"), [(0o022, 0o755, 0o644), (0o007, 0o770, 0o660)]
)
def test_modes_follow_the_umask(
    mask: int, folder_mode: int, file_mode: int, tmp_path: Path
) -> None:
    with umask(mask):
        with atomic_folder(tmp_path / "new") as draft:
            (draft / "a").write_text("")
        with atomic_file(tmp_path / "b") as file:
            file.write(b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "new/a", "b")]
    assert modes == [folder_mode, file_mode, file_mode]


def test_what_replaces_keeps_the_modes_of_what_was_there(tmp_path: Path) -> None:
    folder, path = tmp_path / "posterior", tmp_path / "card.md"
    make_old(folder)
    folder.chmod(0o750)
    path.write_text("old")
    path.chmod(0o640)
    with atomic_folder(folder, replaces=FILES) as draft:
        (draft / "config.json").write_text("new")
    with atomic_file(path) as file:
        file.write(b"new")
    assert [stat.S_IMODE(p.stat().st_mode) for p in (folder, path)] == [0o750, 0o640]


def test_a_link_is_followed_and_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "card.md").write_text("old")
    (tmp_path / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "card.md").symlink_to(tmp_path / "elsewhere" / "card.md")
    with atomic_folder(tmp_path / "folder", replaces=["x"]) as draft:
        (draft / "x").write_text("new")
    with atomic_file(tmp_path / "card.md") as file:
        file.write(b"new")
    assert (tmp_path / "folder").is_symlink()
    assert (tmp_path / "card.md").is_symlink()
    assert (tmp_path / "elsewhere" / "x").read_text() == "new"
    assert (tmp_path / "elsewhere" / "card.md").read_text() == "new"


def test_a_file_that_is_written_during_the_exchange_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "posterior"
    make_old(folder)
    exchange = atomic._exchange

    def late(one: Path, other: Path) -> bool:
        (folder / "notes.txt").write_text("just now")
        (folder / "evaluations" / "b.npz").write_text("just now")
        return exchange(one, other)

    monkeypatch.setattr(atomic, "_exchange", late)
    save(folder, "new")
    assert is_whole(folder)
    assert (folder / "notes.txt").read_text() == "just now"
    assert (folder / "evaluations" / "b.npz").read_text() == "just now"
