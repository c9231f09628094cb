"""All cells of a benchmark, one after the other, and the tables and plots at the end."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path

from rich.console import Console

from blob_pyro.benchmark.cell import Cell, Results
from blob_pyro.benchmark.cell_run import run_cell
from blob_pyro.benchmark.config import BenchmarkConfig
from blob_pyro.benchmark.plots import plot_methods
from blob_pyro.benchmark.tables import Rows, cost_summary, latex_table, markdown_table, summary
from blob_pyro.networks import load_tokenizer
from blob_pyro.training.progress import TrainingProgress

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
        and plots: ``tables.md``, ``tables.tex`` and ``plots/TASK.png``.
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
    results = {}
    for number, cell in enumerate(cells, start=1):
        console.print(f"{number} of {len(cells)}: {cell}", markup=False)
        with TrainingProgress(str(cell), _num_steps(cell, config), console) as on_step:
            results[cell] = run_cell(cell, config, tokenizer, folder, data_dir, on_step=on_step)
    summaries = {
        task: {on: summary(config, results, task, on) for on in config.evaluated_on(task)}
        for task in config.tasks
    }
    _write_tables(config, results, summaries, folder)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for task, tested in summaries.items():
        plot_methods(task, tested).savefig(folder / "plots" / f"{task}.png")
    return results


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
    seeds, tables = f"{len(config.seeds)} seeds", {}
    for task, tested in summaries.items():
        for on, rows in tested.items():
            tables[f"trained on {task}, tested on {on}, {seeds}"] = rows
        costs = cost_summary(config, results, task)
        tables[f"what it costs, trained on {task}, {seeds}"] = costs
    for name, start, table in (("md", "## {}\n\n", markdown_table), ("tex", "% {}\n", latex_table)):
        parts = [start.format(title) + table(rows) for title, rows in tables.items()]
        (folder / f"tables.{name}").write_text("\n".join(parts), encoding="utf-8")
