"""Progress of long work: a bar on a terminal, elsewhere a line every ten seconds."""

import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, Self, TypeVar

from rich import progress
from rich.console import Console

Item = TypeVar("Item")

# Seconds between two lines of a log.
PERIOD = 10.0


class Progress:
    """Shows how far long work is; a context manager.

    Parameters
    ----------
    doing
        What is done.
    total
        How many steps it takes; None if nobody knows.
    console
        Where to show it.

    Examples
    --------
    >>> with Progress("training BLoB", 10, Console(quiet=True)) as progress:
    ...     progress.update(3, "loss 1.200")
    """

    def __init__(self, doing: str, total: int | None, console: Console) -> None:
        self._doing, self._total, self._console = doing, total, console
        self._bar: progress.Progress | None = None
        if console.is_terminal:
            columns = progress.Progress.get_default_columns()
            self._bar = progress.Progress(*columns, console=console, transient=True)
            self._bar.add_task(doing, total=total)
        self._begun: tuple[float, int] | None = None
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        self._shown().__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._shown().__exit__(*exc_info)

    def update(self, done: int, note: str = "") -> None:
        """Show that so many steps are done, with a few words."""
        if self._bar is not None:
            text = ", ".join(filter(None, [self._doing, note]))
            self._bar.update(self._bar.task_ids[0], completed=done, description=text)
            return
        now = time.monotonic()
        # A resumed run does not start from nothing.
        self._begun = self._begun or (self._last, done - 1)
        if now - self._last >= PERIOD:
            self._last = now
            of = "" if self._total is None else f" of {self._total}"
            parts = [f"{self._doing}: {done}{of}", note, self._time_left(now, done)]
            self._console.print(", ".join(filter(None, parts)), markup=False, soft_wrap=True)

    def _time_left(self, now: float, done: int) -> str:
        if self._total is None or self._begun is None:
            return ""
        start, first = self._begun
        seconds = (now - start) / (done - first) * (self._total - done)
        return f"{timedelta(seconds=round(seconds))} left"

    def _shown(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._bar is None else self._bar


def tracked(items: Iterable[Item], progress: bool, doing: str = "predicting") -> Iterator[Item]:
    """Go over batches, or whatever takes time, and show how far it is."""
    # On stderr, so that a program's results can be piped.
    console = Console(stderr=True, quiet=not progress)
    total = len(items) if isinstance(items, Sized) else None
    with Progress(doing, total, console) as shown:
        for done, item in enumerate(items, start=1):
            yield item
            shown.update(done)
