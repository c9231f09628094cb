"""What commands print, and how they end when the user made a mistake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from blob_pyro.training import TrainingInterruptedError

# Progress and errors, so that results alone are on standard output.
console = Console(stderr=True)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a user's mistake into one line on stderr and exit code 2."""
    try:
        yield
    except BrokenPipeError:
        # Whoever reads our output has had enough, which is no mistake.
        raise
    except (ValueError, OSError, ModuleNotFoundError, FloatingPointError) as error:
        message = " ".join(str(error).split())
        console.print(f"blob-pyro: {message}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error


@contextmanager
def stopped_by_signal() -> Iterator[None]:
    """Turn a stop that was asked for into one line on stderr and a shell's exit code for it."""
    try:
        yield
    except TrainingInterruptedError as stop:
        console.print(f"blob-pyro: stopped by {stop}", markup=False, soft_wrap=True)
        raise typer.Exit(128 + stop.signal_number) from stop


def print_warning(message: Warning | str, *_place: object) -> None:
    """Show a warning as one line on stderr, without the place in the code."""
    console.print(f"blob-pyro: {message}", style="yellow", markup=False, soft_wrap=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows on standard output."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


def print_metrics(metrics: Mapping[str, float]) -> None:
    """Print one metric a row."""
    print_table(("metric", "value"), [(name, f"{value:.4f}") for name, value in metrics.items()])
