from __future__ import annotations

import io

import pytest
from rich.console import Console

from blob_pyro.training import StepRecord
from blob_pyro.training.step_record import TrainingProgress


def test_runs_that_follow_each_other_are_counted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first one was resumed: where the count fell back to its start, the rate had no divisor.
    monkeypatch.setattr("blob_pyro.infer.progress.PERIOD", 0.0)
    log = io.StringIO()
    with TrainingProgress("ens", 8, Console(file=log)) as on_step:
        for step in (2, 3, 0, 1, 2, 3):
            on_step(StepRecord(step, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0))
    shown = [int(line.split(":")[1].split()[0]) for line in log.getvalue().splitlines()]
    assert shown == [3, 4, 5, 6, 7, 8]
