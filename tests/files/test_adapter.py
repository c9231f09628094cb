from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from blob_pyro.files.adapter import check_tensors, read_json, read_tensors, write_tensors


def test_tensors_come_back_whatever_their_layout(tmp_path: Path) -> None:
    tensor = torch.arange(6.0, requires_grad=True).reshape(2, 3).T
    write_tensors(tmp_path / "t.safetensors", {"x": tensor})
    assert torch.equal(read_tensors(tmp_path / "t.safetensors")["x"], tensor)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of files")
def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path) -> None:
    import resource

    kind = resource.RLIMIT_FSIZE
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=r"t.safetensors cannot be written .*File too large"):
            write_tensors(tmp_path / "t.safetensors", {"x": torch.zeros(1000)})
    finally:
        resource.setrlimit(kind, before)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"t.safetensors is missing; is .* the right folder"):
        read_tensors(tmp_path / "t.safetensors")
    (tmp_path / "t.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"t.safetensors cannot be used .Safetensor"):
        read_tensors(tmp_path / "t.safetensors")
    with pytest.raises(ValueError, match=r"t.json is missing; is .* the right folder"):
        read_json(tmp_path / "t.json")
    for content in ("{", "[" * 100_000, "\udcff"):
        (tmp_path / "t.json").write_text(content, errors="surrogateescape")
        with pytest.raises(
            ValueError, match=r"t.json cannot be used .*restore the folder from a copy"
        ):
            read_json(tmp_path / "t.json")


def test_tensors_that_differ_are_named(tmp_path: Path) -> None:
    path, x, y = tmp_path / "t", torch.zeros(2, 3), torch.zeros(3)
    check_tensors(path, {"x": x, "y": y}, {"y": y, "x": x}, "the model")
    with pytest.raises(ValueError, match=r"t and the model have different sites .'y' is in one"):
        check_tensors(path, {"x": x}, {"x": x, "y": y}, "the model")
    with pytest.raises(ValueError, match=r"t: 'x' has shape .3,. but the model needs .2, 3."):
        check_tensors(path, {"x": y}, {"x": x}, "the model")
