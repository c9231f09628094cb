from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROWS = ["no toner,printing", "jam in tray,printing", "locked out,login", "my password,login"]


@pytest.fixture
def train(tmp_path: Path, base_folder: str, invoke: Callable[..., Any]) -> Callable[..., Any]:
    """Train on a user's own twelve texts."""
    data = tmp_path / "tickets.csv"
    data.write_text("\n".join(["text,label", *ROWS * 3]))
    arguments = ["--data", str(data), "--model", base_folder, "--num-steps", "2", "--set", "rank=2"]

    def run(*options: str) -> Any:
        return invoke(
            "train", *arguments, "--output-dir", str(tmp_path / "out"), "--num-samples", "2",
            *options,
        )  # fmt: skip

    return run


def test_early_stopping_by_held_out_texts(train: Callable[..., Any], tmp_path: Path) -> None:
    result = train("--set", "validate_every=1", "--validation-fraction", "0.3")
    assert result.exit_code == 0, result.output
    assert "tickets, validation: 3 of 10 rows held out" in result.stderr
    assert "kept the state after step " in result.stderr
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| accuracy |" in card
    assert "7 training examples" in card


def test_a_fraction_without_a_use_is_refused(train: Callable[..., Any], tmp_path: Path) -> None:
    result = train("--validation-fraction", "0.3")
    assert result.exit_code == 2
    assert "set validate_every too, or leave it out" in result.stderr
    assert not (tmp_path / "out").exists()
