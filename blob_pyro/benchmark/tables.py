"""Mean and standard deviation over seeds, as Markdown and LaTeX."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from blob_pyro.benchmark.cell import Cell
from blob_pyro.benchmark.config import BenchmarkConfig

# Name in tables, factor, whether more is better.
COLUMNS = {
    "accuracy": ("ACC", 100.0, True),
    "ece": ("ECE", 100.0, False),
    "nll": ("NLL", 1.0, False),
    "auroc": ("AUROC", 100.0, True),
}
Spread = tuple[float, float]


@dataclass(frozen=True)
class Layout:
    """How a format writes a cell, the best cell, a row and the lines around a table."""

    cell: Callable[[float, float], str]
    best: Callable[[str], str]
    row: Callable[[Sequence[str]], str]
    before: Callable[[int], Sequence[str]]
    after_header: Callable[[int], str]
    after: Sequence[str]


MARKDOWN = Layout(
    cell=lambda mean, deviation: f"{mean:.2f} ± {deviation:.2f}",
    best=lambda text: f"**{text}**",
    row=lambda cells: f"| {' | '.join(cells)} |",
    before=lambda _: (),
    after_header=lambda columns: "|" + "---|" * columns,
    after=(),
)
LATEX = Layout(
    cell=lambda mean, deviation: f"{mean:.2f}_{{\\pm {deviation:.2f}}}",
    best=lambda text: f"\\mathbf{{{text}}}",
    row=lambda cells: " & ".join(_latex(cell) for cell in cells) + r" \\",
    before=lambda columns: (rf"\begin{{tabular}}{{l{'c' * (columns - 1)}}}", r"\toprule"),
    after_header=lambda _: r"\midrule",
    after=(r"\bottomrule", r"\end{tabular}"),
)


def _latex(cell: str) -> str:
    return f"${cell}$" if "\\pm" in cell else cell.replace("_", r"\_")


def summary(
    config: BenchmarkConfig, results: dict[Cell, dict[str, Any]], task: str, on: str
) -> dict[str, dict[str, Spread]]:
    """Summarise what was trained on one task and tested on a data set, over the seeds.

    Parameters
    ----------
    config
        The benchmark.
    results
        From :func:`run_cell`, for every cell.
    task
        The task that was trained on.
    on
        The task that was tested on.

    Returns
    -------
    dict
        Row (method and number of draws) to metric to mean and standard deviation over seeds;
        accuracy, ECE and AUROC in percent, NLL in nats.
    """
    rows = {}
    for name, method in config.methods.items():
        for num_samples in method.num_samples:
            found = [
                results[Cell(name, task, seed)]["metrics"][str(num_samples)][on]
                for seed in config.seeds
            ]
            row = name if method.num_samples == (0,) else f"{name}, K = {num_samples}"
            rows[row] = {
                metric: _spread([values[metric] * factor for values in found])
                for metric, (_, factor, _) in COLUMNS.items()
                if metric in found[0]
            }
    return rows


def _spread(values: Sequence[float]) -> Spread:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.mean(values), deviation


def markdown_table(rows: dict[str, dict[str, Spread]]) -> str:
    """Write a summary as a Markdown table, the best mean of each column in bold."""
    return _table(rows, MARKDOWN)


def latex_table(rows: dict[str, dict[str, Spread]]) -> str:
    """Write a summary as a LaTeX table (booktabs), the best mean of each column in bold."""
    return _table(rows, LATEX)


def _table(rows: dict[str, dict[str, Spread]], layout: Layout) -> str:
    metrics = list(next(iter(rows.values())))
    best = {metric: _best([row[metric][0] for row in rows.values()], metric) for metric in metrics}
    header = ["", *(COLUMNS[metric][0] for metric in metrics)]
    lines = [*layout.before(len(header)), layout.row(header), layout.after_header(len(header))]
    for name, row in rows.items():
        cells = []
        for metric in metrics:
            text = layout.cell(*row[metric])
            cells.append(layout.best(text) if row[metric][0] == best[metric] else text)
        lines.append(layout.row([name, *cells]))
    return "\n".join([*lines, *layout.after]) + "\n"


def _best(means: Sequence[float], metric: str) -> float:
    return max(means) if COLUMNS[metric][2] else min(means)
