from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from blob_pyro.infer import progress
from blob_pyro.infer.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds; a test moves it."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def logged(clock: list[float], first: int, last: int, total: int | None, seconds: float) -> Any:
    """The lines that steps of so many seconds write to a file."""
    file = io.StringIO()
    with Progress("training", total, Console(file=file, width=200)) as shown:
        for done in range(first, last + 1):
            clock[0] += seconds
            shown.update(done, f"loss {done}")
    return file.getvalue().splitlines()


def test_a_log_gets_a_line_every_ten_seconds(clock: list[float]) -> None:
    lines = logged(clock, 1, 10, 10, seconds=4.0)
    assert lines == [
        "training: 3 of 10, loss 3, 0:00:28 left",
        "training: 6 of 10, loss 6, 0:00:16 left",
        "training: 9 of 10, loss 9, 0:00:04 left",
    ]


def test_the_time_left_of_a_resumed_run_is_that_of_its_own_steps(clock: list[float]) -> None:
    assert logged(clock, 51, 53, 60, seconds=5.0) == ["training: 52 of 60, loss 52, 0:00:40 left"]


def test_short_work_writes_nothing(clock: list[float]) -> None:
    assert logged(clock, 1, 9, 9, seconds=1.0) == []


def test_without_a_total_no_time_is_left_out_of_thin_air(clock: list[float]) -> None:
    assert logged(clock, 1, 1, None, seconds=11.0) == ["training: 1, loss 1"]
