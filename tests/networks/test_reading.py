from __future__ import annotations

from pathlib import Path

import pytest

from blob_pyro.networks.reading import reading


class Panic(BaseException):
    """What a library in Rust raises, which is no Exception."""


def test_a_file_is_named_once(tmp_path: Path) -> None:
    path, message = tmp_path / "a.json", r"a.json cannot be used .Panic: r.; restore the folder"
    with pytest.raises(ValueError, match=message), reading(path):
        raise Panic("r")
    named = ValueError(f"{path} is damaged")
    with pytest.raises(ValueError, match=r"a.json is damaged") as error, reading(path):
        raise named
    assert error.value is named
    with pytest.raises(KeyboardInterrupt), reading(path):
        raise KeyboardInterrupt
