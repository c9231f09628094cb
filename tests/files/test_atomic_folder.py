from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from blob_pyro.files import atomic
from blob_pyro.files.atomic import atomic_folder, check_new, check_writable


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_older_folder(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("old")

    def fail() -> None:
        with atomic_folder(tmp_path / "a", replaces=["x"]) as draft:
            (draft / "x").write_text("ne")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "x"]
    assert (tmp_path / "a" / "x").read_text() == "old"


def test_what_is_not_replaced_stays(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "a"
    for content in ("old", "new"):
        with atomic_folder(folder, replaces=["x"]) as draft:
            (draft / "x").write_text(content)
            assert not folder.exists() or (folder / "x").read_text() == "old"
        (folder / "notes").write_text("mine")
    found = {path.name: path.read_text() for path in folder.iterdir()}
    assert found == {"x": "new", "notes": "mine"}
    assert [*(tmp_path / "new").iterdir()] == [folder]


def test_a_new_folder_is_absent_or_empty(tmp_path: Path) -> None:
    check_new(tmp_path / "absent")
    check_new(tmp_path)
    (tmp_path / "x").write_text("")
    for taken in (tmp_path, tmp_path / "x"):
        with pytest.raises(ValueError, match="exists and is not empty; give a new folder"):
            check_new(taken)


MOUNTED = f"""
set -e
mkdir empty locked full
mount -t tmpfs none empty
mount -t tmpfs -o size=16k none full
mount -t tmpfs none locked
mkdir locked/old
mount -o remount,ro locked
{sys.executable} - <<'END'
import contextlib, importlib.util, json, os, pathlib
spec = importlib.util.spec_from_file_location("atomic", {atomic.__file__!r})
atomic = importlib.util.module_from_spec(spec)
spec.loader.exec_module(atomic)
with contextlib.suppress(OSError), open("full/filler", "wb", buffering=0) as file:
    while file.write(bytes(1024)):
        pass
os.symlink("empty/behind", "link")
os.symlink("loop", "loop")
names = ["empty", "empty/x", "locked", "locked/x", "locked/old", "full/x", "link", "loop/x"]
names += ["n" * 225, "n" * 250, "/proc/x", "a/b/c", "full/filler/x"]
refused, failed = {{}}, {{}}
for name in names:
    try:
        atomic.check_writable(name)
    except ValueError as error:
        refused[name] = str(error).removeprefix(name)
for name in names:
    try:
        with atomic.atomic_folder(name) as draft:
            (draft / "x").write_bytes(b"x" * 100)
    except OSError as error:
        failed[name] = str(error)
print(json.dumps([refused, failed, os.listdir("empty"), os.listdir(".")]))
END
"""


@pytest.mark.skipif(
    not shutil.which("unshare")
    or subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode != 0,
    reason="nothing can be mounted here",
)
def test_what_cannot_be_written_is_found_and_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "-rm", "bash"],
        input=MOUNTED, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    refused, failed, behind, left = json.loads(done.stdout)
    assert refused.keys() == failed.keys()
    assert failed.keys() == {
        "empty", "locked", "locked/x", "locked/old", "full/x", "loop/x", "n" * 250, "/proc/x",
        "full/filler/x",
    }  # fmt: skip
    assert refused["empty"].endswith("give a folder inside this mount point")
    assert refused["full/x"].startswith(" cannot be written (No space left on device: ")
    # A link is followed, and stays.
    assert sorted(behind) == ["behind", "x"]
    assert sorted(left) == ["a", "empty", "full", "link", "locked", "loop", "n" * 225]


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "x").write_text("old")
    before = (tmp_path / "old").stat().st_mtime_ns
    for name in ("old", "new", "above/new"):
        check_writable(tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["old", "x"]
    assert (tmp_path / "old").stat().st_mtime_ns == before
