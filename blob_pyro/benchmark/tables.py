"""Mean and standard deviation over seeds, as Markdown and LaTeX."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence

import pandas

from blob_pyro.benchmark.cell import Cell, Results
from blob_pyro.benchmark.config import BenchmarkConfig

# Name in tables, factor, whether more is better.
COLUMNS = {
    "accuracy": ("ACC", 100.0, True),
    "ece": ("ECE", 100.0, False),
    "nll": ("NLL", 1.0, False),
    "auroc": ("AUROC", 100.0, True),
    "auroc_max_probability": ("AUROC, largest probability", 100.0, True),
    "auroc_mutual_information": ("AUROC, mutual information", 100.0, True),
    "train_ratio": ("training time / mle", 1.0, False),
    "train_seconds": ("training time, s", 1.0, False),
    "predict_ratio": ("prediction time / mle", 1.0, False),
    "predict_seconds": ("prediction time, s", 1.0, False),
    "bytes": ("peak memory, GiB", 2.0**-30, False),
    "extra_parameters": ("extra parameters, 1000", 1e-3, False),
}
# Mean and standard deviation over the seeds; the latter is not a number of one seed.
Spread = tuple[float, float]
# Row to column.
Rows = dict[str, dict[str, Spread]]


def summary(config: BenchmarkConfig, results: dict[Cell, Results], task: str, on: str) -> Rows:
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
    return _rows(
        config, lambda name, draws, seed: results[Cell(name, task, seed)]["metrics"][draws][on]
    )


def cost_summary(config: BenchmarkConfig, results: dict[Cell, Results], task: str) -> Rows:
    """Summarise what training on a task, and predicting all of its test sets, cost.

    Parameters
    ----------
    config, results, task
        As in :func:`summary`.

    Returns
    -------
    dict
        Row to column to mean and standard deviation over seeds: times relative to those of the
        first method that is maximum likelihood with the same seed (in seconds if there is none), a
        method's start included; the larger of both peak memories; and numbers that are kept beyond
        those of plain LoRA.
    """
    unit = plain_lora(config)

    def costs(name: str, draws: str, seed: int) -> dict[str, float]:
        result = results[Cell(name, task, seed)]
        train, predict = result["train_seconds"], result["predict_seconds"][draws]
        suffix = "seconds" if unit is None else "ratio"
        if unit is not None:
            mle = results[Cell(unit, task, seed)]
            train /= mle["train_seconds"]
            predict /= min(mle["predict_seconds"].values())
        return {
            f"train_{suffix}": train,
            f"predict_{suffix}": predict,
            "bytes": max(result["train_bytes"], result["predict_bytes"][draws]),
            "extra_parameters": result["extra_parameters"],
        }

    return _rows(config, costs)


def _rows(config: BenchmarkConfig, values: Callable[[str, str, int], dict[str, float]]) -> Rows:
    """Summarise values of (method, number of draws, seed) over the seeds."""
    rows = {}
    for row, name, num_samples in rows_of(config):
        found = [values(name, str(num_samples), seed) for seed in config.seeds]
        rows[row] = {
            column: _spread([each[column] * factor for each in found])
            for column, (_, factor, _) in COLUMNS.items()
            if column in found[0]
        }
    return rows


def rows_of(config: BenchmarkConfig) -> Iterator[tuple[str, str, int]]:
    """Give the rows of a table: their name, the method and the number of draws."""
    for name, method in config.methods.items():
        for number in method.num_samples:
            yield name if method.num_samples == (0,) else f"{name}, K = {number}", name, number


def plain_lora(config: BenchmarkConfig) -> str | None:
    """Name the first method that is maximum likelihood, if there is one."""
    return next((name for name, m in config.methods.items() if m.recipe.method == "mle"), None)


def _spread(values: Sequence[float]) -> Spread:
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def markdown_table(rows: Rows) -> str:
    """Write a summary as a Markdown table, the best mean of each column in bold."""
    return f"{_cells(rows, '{:.2f} ± {:.2f}', '**{}**').to_markdown(disable_numparse=True)}\n"


def latex_table(rows: Rows) -> str:
    """Write a summary as a LaTeX table (booktabs), the best mean of each column in bold."""
    cells = _cells(rows, r"{:.2f} \pm {:.2f}", r"\mathbf{{{}}}").map("${}$".format)
    cells.index = cells.index.str.replace("_", r"\_")
    return cells.style.to_latex(hrules=True)


def _cells(rows: Rows, cell: str, bold: str) -> pandas.DataFrame:
    """Lay the cells out as text."""
    table = pandas.DataFrame.from_dict(rows, orient="index")
    for column in table:
        _, _, more_is_better = COLUMNS[column]
        means = table[column].str[0]
        best = means.max() if more_is_better else means.min()
        # One draw has no mutual information, and one seed no deviation.
        texts = [
            (cell.split(maxsplit=1)[0] if math.isnan(s[1]) else cell).format(*s)
            if isinstance(s, tuple)
            else ""
            for s in table[column]
        ]
        table[column] = [
            bold.format(text) if mean == best else text
            for text, mean in zip(texts, means, strict=True)
        ]
    return table.rename(columns={name: COLUMNS[name][0] for name in table})
