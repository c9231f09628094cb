from __future__ import annotations

from pathlib import Path

import pytest

from blob_pyro.files.atomic import atomic_folder, check_new


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
