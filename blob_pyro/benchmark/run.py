"""All cells of a benchmark, one after the other, and the tables and plots at the end."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from blob_pyro.benchmark.cell import Cell
from blob_pyro.benchmark.cell_run import run_cell
from blob_pyro.benchmark.config import BenchmarkConfig
from blob_pyro.benchmark.plots import plot_methods
from blob_pyro.benchmark.tables import (
    Spread,
    cost_summary,
    latex_table,
    markdown_table,
    summary,
)
from blob_pyro.networks import load_tokenizer
from blob_pyro.training.progress import TrainingProgress

# Trained on, tested on, row, metric.
Summaries = dict[str, dict[str, dict[str, dict[str, Spread]]]]


def run_benchmark(
    config: BenchmarkConfig,
    folder: str | Path,
    data_dir: Path | None = None,
    *,
    console: Console | None = None,
) -> dict[Cell, dict[str, Any]]:
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
    cells = _with_starts(
        config,
        [
            Cell(method, task, seed)
            for seed, task, method in product(config.seeds, config.tasks, config.methods)
        ],
    )
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
    _write_plots(summaries, folder / "plots")
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
    config: BenchmarkConfig,
    results: dict[Cell, dict[str, Any]],
    summaries: Summaries,
    folder: Path,
) -> None:
    markdown, latex = [], []
    for task, tested in summaries.items():
        for on, rows in tested.items():
            title = f"trained on {task}, tested on {on}, {len(config.seeds)} seeds"
            markdown.append(f"## {title}\n\n{markdown_table(rows)}")
            latex.append(f"% {title}\n{latex_table(rows)}")
        rows = cost_summary(config, results, task)
        title = f"what it costs, trained on {task}, {len(config.seeds)} seeds"
        markdown.append(f"## {title}\n\n{markdown_table(rows)}")
        latex.append(f"% {title}\n{latex_table(rows)}")
    (folder / "tables.md").write_text("\n".join(markdown), encoding="utf-8")
    (folder / "tables.tex").write_text("\n".join(latex), encoding="utf-8")


def _write_plots(summaries: Summaries, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for task, tested in summaries.items():
        plot_methods(task, tested).savefig(folder / f"{task}.png")
