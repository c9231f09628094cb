"""What commands print, and how they end when the user made a mistake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from accelerate import Accelerator

    from blob_pyro.cli.options import Precision
    from blob_pyro.recipe import Predictions


def make_accelerator(precision: Precision | None, tracker: str | None, folder: Path) -> Accelerator:
    """Make the accelerator of a run that writes to a folder, and let one process speak for all.

    Raises
    ------
    ValueError
        If the tracker's package is not installed.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(
        mixed_precision=None if precision is None else precision.value,
        log_with=tracker,
        project_dir=folder.with_name(f"{folder.name}-logs"),
    )
    if tracker is not None:
        accelerator.init_trackers("blob-pyro")
        if not accelerator.trackers:
            raise ValueError(
                f"--tracker {tracker}: its package is not installed; install it, or leave it out"
            )
    console.quiet = not accelerator.is_main_process
    return accelerator


def check_can_save(accelerator: Accelerator) -> None:
    """Refuse a run whose posterior could not be saved, before it begins.

    Raises
    ------
    ValueError
        If the parameters themselves are sharded.
    """
    from accelerate.utils import DistributedType

    kind = accelerator.distributed_type
    plugin = accelerator.state.deepspeed_plugin if kind == DistributedType.DEEPSPEED else None
    if kind == DistributedType.FSDP or (plugin is not None and plugin.zero_stage == 3):
        raise ValueError(
            f"under {kind.value} no process holds the whole posterior, so it could not be saved; "
            "use data parallelism, or call blob_pyro.training.fit in a script and gather it there"
        )


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


def print_warning(message: Warning | str, *_place: object) -> None:
    """Show a warning as one line on stderr, without the place in the code."""
    console.print(f"blob-pyro: {message}", style="yellow", markup=False, soft_wrap=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows on standard output."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


def print_predictions(evaluations: Mapping[str, Predictions]) -> None:
    """Print a data set a row: how many examples, and each metric with its 95 % interval.

    The first is what the others are told from: their row has the AUROC of the entropy.
    """
    first, *others = evaluations.values()
    columns = ["", "examples", *first.metrics(), *(["AUROC"] if others else [])]
    rows = []
    for name, evaluation in evaluations.items():
        cells = [""] * (len(columns) - 2 - bool(others))
        if evaluation.is_labelled:
            # One example has no interval.
            intervals = evaluation.intervals() if len(evaluation.labels) > 1 else {}
            cells = [
                _with_interval(value, intervals.get(metric))
                for metric, value in evaluation.metrics().items()
            ]
        if others:
            cells.append("" if evaluation is first else f"{first.ood_auroc(evaluation):.3f}")
        rows.append([name, str(len(evaluation.labels)), *cells])
    print_table(columns, rows)


def _with_interval(value: float, ends: tuple[float, float] | None) -> str:
    return f"{value:.3f}" if ends is None else f"{value:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]"
