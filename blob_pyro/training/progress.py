"""How far training is, and its loss."""

from collections.abc import Callable

from rich.console import Console

from blob_pyro.infer.progress import Progress
from blob_pyro.training import StepRecord


class TrainingProgress:
    """Shows step, loss and time left; a context manager that gives ``fit`` its ``on_step``.

    Parameters
    ----------
    name
        What is trained.
    num_steps
        Gradient steps until it is done; None if nobody knows yet.
    console
        Where to show it: as a bar on a terminal, elsewhere as a line every ten seconds.

    Examples
    --------
    >>> with TrainingProgress("BLoB", 10, Console(quiet=True)) as on_step:
    ...     on_step(StepRecord(0, 1.2, 300.0, 5e4, 1e-3, 2e-3, 0.7))
    """

    def __init__(self, name: str, num_steps: int | None, console: Console) -> None:
        self._progress = Progress(f"training {name}", num_steps, console)
        self._earlier, self._taken = 0, 0

    def __enter__(self) -> Callable[[StepRecord], None]:
        self._progress.__enter__()
        return self._on_step

    def __exit__(self, *exc_info: object) -> None:
        self._progress.__exit__(*exc_info)

    def _on_step(self, record: StepRecord) -> None:
        if record.step < self._taken:
            # Another run, such as an ensemble's next member.
            self._earlier += self._taken
        self._taken = record.step + 1
        self._progress.update(self._earlier + self._taken, f"loss {record.loss:.3f}")
