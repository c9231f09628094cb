"""All cells of a benchmark, one after the other, and the tables and plots at the end."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from blob_pyro.benchmark.cell import Cell, Results
from blob_pyro.benchmark.cell_run import run_cell
from blob_pyro.benchmark.config import BenchmarkConfig
from blob_pyro.benchmark.paired import differences_table, paired_differences
from blob_pyro.benchmark.plots import plot_methods
from blob_pyro.benchmark.tables import Rows, cost_summary, latex_table, markdown_table, summary
from blob_pyro.files.atomic import atomic_file
from blob_pyro.networks import load_tokenizer
from blob_pyro.training.step_record import TrainingProgress

# Seconds to wait where all cells that are left are another process's.
_PATIENCE = 1.0
# Trained on, tested on.
Summaries = dict[str, dict[str, Rows]]


def run_benchmark(
    config: BenchmarkConfig,
    folder: str | Path,
    data_dir: Path | None = None,
    *,
    console: Console | None = None,
) -> dict[Cell, Results]:
    """Run the cells that are not finished, and write tables and plots.

    Parameters
    ----------
    config
        Tasks, methods and seeds.
    folder
        Results; an interrupted run goes on where it was, a finished one does nothing but tables
        and plots: ``tables.md``, ``tables.tex`` and ``plots/TASK.png``.  Several processes may work
        on one folder: each takes the cells that no other one is at.
    data_dir
        Folder of the data as JSON lines; None reads the Hub.
    console
        Where to show progress; None for silence.

    Returns
    -------
    dict
        Results of every cell, further members of ensembles among them.

    Raises
    ------
    ValueError
        If a row or a file is bad, or the folder holds cells of other settings.
    """
    folder, console = Path(folder), console or Console(quiet=True)
    grid = product(config.seeds, config.tasks, config.methods)
    cells = _with_starts(config, [Cell(method, task, seed) for seed, task, method in grid])
    tokenizer = load_tokenizer(config.model)

    def run(cell: Cell) -> Results:
        console.print(f"{cells.index(cell) + 1} of {len(cells)}: {cell}", markup=False)
        with TrainingProgress(str(cell), _num_steps(cell, config), console) as on_step:
            return run_cell(cell, config, tokenizer, folder, data_dir, on_step=on_step)

    results = _run_all(cells, config, folder, run)
    summaries = {
        task: {on: summary(config, results, task, on) for on in config.evaluated_on(task)}
        for task in config.tasks
    }
    _write_tables(config, results, summaries, folder)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for task, tested in summaries.items():
        plot_methods(task, tested).savefig(folder / "plots" / f"{task}.png")
    return results


def _run_all(
    cells: Sequence[Cell], config: BenchmarkConfig, folder: Path, run: Callable[[Cell], Results]
) -> dict[Cell, Results]:
    """Run or read all cells, leaving to other processes those that they are at."""
    results: dict[Cell, Results] = {}
    while waiting := [cell for cell in cells if cell not in results]:
        for cell in waiting:
            if cell.path(folder).exists():
                results[cell] = run(cell)
            elif all(start in results for start in cell.starts(config)):
                with _claimed(folder / "claims" / f"{cell}.lock") as mine:
                    if mine:
                        results[cell] = run(cell)
        if all(cell not in results for cell in waiting):
            time.sleep(_PATIENCE)
    return {cell: results[cell] for cell in cells}


@contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Try to lock a file for the time of the body, or of the process if that is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _num_steps(cell: Cell, config: BenchmarkConfig) -> int | None:
    """Count the steps of a cell; None if that takes the size of a data set not yet read."""
    if cell.starts(config):
        return 0
    recipe, limit = cell.recipe(config), config.tasks[cell.task].max_train
    if limit is not None:
        recipe = recipe.for_data(limit)
    return None if recipe.training.num_steps is None else recipe.num_steps


def _with_starts(config: BenchmarkConfig, cells: Iterable[Cell]) -> list[Cell]:
    """Put before each cell those that it starts from; none comes twice."""
    order: dict[Cell, None] = {}
    for cell in cells:
        for needed in (*_with_starts(config, cell.starts(config)), cell):
            order.setdefault(needed)
    return list(order)


def _write_tables(
    config: BenchmarkConfig, results: dict[Cell, Results], summaries: Summaries, folder: Path
) -> None:
    several = len(config.seeds) > 1
    seeds, tables, differences = f"{len(config.seeds)} seed{'s' * several}", {}, {}
    for task, tested in summaries.items():
        trained = f"trained on {task} ({config.tasks[task].labels})"
        for on, rows in tested.items():
            title = f"{trained}, tested on {on}, {seeds}"
            tables[title] = rows
            if paired := paired_differences(config, folder, task, on):
                differences[title] = paired
        tables[f"what it costs, {trained}, {seeds}"] = cost_summary(config, results, task)
    for name, start, table in (("md", "## {}\n\n", markdown_table), ("tex", "% {}\n", latex_table)):
        parts = [start.format(title) + table(rows) for title, rows in tables.items()]
        if name == "md":
            parts += [
                f"## differences, {title}\n\n{differences_table(rows)}"
                for title, rows in differences.items()
            ]
        with atomic_file(folder / f"tables.{name}") as file:
            file.write("\n".join(parts).encode())
