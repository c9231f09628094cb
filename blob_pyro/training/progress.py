"""Training as a bar on the terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import Progress

from blob_pyro.training import StepRecord


class TrainingProgress:
    """A progress bar that shows the loss; a context manager that gives ``fit`` its ``on_step``.

    Parameters
    ----------
    name
        What is trained.
    num_steps
        Gradient steps until it is done; None if nobody knows yet.
    console
        Where to draw it.

    Examples
    --------
    >>> with TrainingProgress("BLoB", 10, Console(quiet=True)) as on_step:
    ...     on_step(StepRecord(0, 1.2, 300.0, 5e4, 1e-3, 2e-3, 0.7))
    """

    def __init__(self, name: str, num_steps: int | None, console: Console) -> None:
        self._progress = Progress(*Progress.get_default_columns(), console=console, transient=True)
        self._name, self._bar = name, self._progress.add_task(f"training {name}", total=num_steps)

    def __enter__(self) -> Callable[[StepRecord], None]:
        self._progress.start()
        return self._on_step

    def __exit__(self, *exc_info: object) -> None:
        self._progress.stop()

    def _on_step(self, record: StepRecord) -> None:
        text = f"training {self._name}, loss {record.loss:.3f}"
        # Not one more: a resumed run does not start from nothing.
        self._progress.update(self._bar, completed=record.step + 1, description=text)
