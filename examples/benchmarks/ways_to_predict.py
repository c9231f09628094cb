"""What every way to the uncertainty of ten draws costs, and what it gives: a table and a picture.

``python examples/benchmarks/ways_to_predict.py RESULTS --data-dir DATA`` takes the posteriors and
predictions of one task and seed from ``RESULTS``, the results of ``few_shot_texts.yaml``.  All ways
predict the same test texts in turns, and a ratio is to plain LoRA in the same round.  Memory is
that of the tensors of one batch, counted by torch's profiler.  A method that was not run is left
out.  ``--smoke-test`` makes the results too, with a tiny network.
"""

from __future__ import annotations

import argparse
import operator
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from few_shot_texts import HERE, tiny_results
from matplotlib.figure import Figure
from paired_comparison import (
    begin,
    median_interval,
    paired,
    print_table,
    seconds_in_turns,
    with_interval,
)
from plain_and_bayesian import peak_bytes
from torch.utils.data import DataLoader

from blob_pyro.benchmark import BenchmarkConfig, Cell, read_config
from blob_pyro.benchmark.data import benchmark_task, evaluation_data
from blob_pyro.diagnostics import plot_style
from blob_pyro.diagnostics.plots.style import series
from blob_pyro.files import load_posterior
from blob_pyro.infer import posterior_predictive
from blob_pyro.networks import load_tokenizer
from blob_pyro.recipe.network import load_network
from blob_pyro.recipe.predictions import load_predictions
from blob_pyro.tasks import LongestFirst, collator_for

PLAIN = "plain LoRA"
# Name, method of the benchmark, draws, draws that share a pass.
WAYS: list[tuple[str, str, int, bool]] = [
    (PLAIN, PLAIN, 0, True),
    ("BLoB, its mean", "BLoB", 0, True),
    ("BLoB, ten draws, one after the other", "BLoB", 10, False),
    ("BLoB, ten draws, as many in a pass as pay", "BLoB", 10, True),
    ("BLoB, last layers, ten draws", "BLoB last layers", 10, True),
    ("distilled", "distilled", 0, True),
    ("ensemble of three", "ensemble", 3, True),
    ("Laplace, linearised, ten draws", "Laplace", 10, True),
]
MIB = 2**20


def predict(
    config: BenchmarkConfig, folder: Path, data_dir: Path | None, cell: Cell, limit: int
) -> Callable[..., object]:
    """Give the function of draws that predicts the test texts with a cell's posterior."""
    task = benchmark_task(cell.task, config, data_dir, cell.seed)
    network = load_network(config.model, task, torch.float32, seed=cell.seed)
    model, guide = load_posterior(cell.posterior(folder), network)
    data = evaluation_data(task, config, config.tasks[cell.task], data_dir, cell.seed)
    data = data.select(range(min(limit, len(data))))
    collator = collator_for(task, load_tokenizer(config.model), "head")
    order = LongestFirst.by_tokens(data, collator)
    loader = DataLoader(data, 16, sampler=order, collate_fn=collator)
    return partial(posterior_predictive, model, guide, [*loader], seed=cell.seed, progress=False)


def compare(
    config: BenchmarkConfig,
    folder: Path,
    data_dir: Path | None,
    task: str,
    options: argparse.Namespace,
) -> dict[str, tuple[float, float]]:
    """Print the table; give each way's time, as a ratio, and its NLL."""
    runs, peaks, metrics, loaded = {}, {}, {}, {}
    for name, method, draws, parallel in WAYS:
        cell = Cell(method, task, options.seed)
        saved = folder / "draws" / f"{cell}-{task}-draws{draws}.npz"
        if not saved.exists():
            continue
        if method not in loaded:
            loaded[method] = predict(config, folder, data_dir, cell, options.texts)
        runs[name] = partial(loaded[method], num_samples=draws, parallel=parallel)
        peaks[name] = peak_bytes(runs[name])
        metrics[name] = load_predictions(saved).metrics()
    seconds = seconds_in_turns(runs, options.repeats, warm_up=1)
    print(
        f"{task}, seed {options.seed}: {median_interval(seconds[PLAIN])[0]:.2f} s for plain LoRA\n"
    )
    rows, points = [], {}
    for name, found in metrics.items():
        ratio = median_interval(paired(operator.truediv, seconds[name], seconds[PLAIN]))
        points[name] = (ratio[0], found["nll"])
        measures = [f"{100 * found[key]:.1f}" for key in ("accuracy", "ece")]
        peak = f"{peaks[name] / MIB:.0f}"
        rows.append([name, with_interval(ratio, 2), peak, *measures, f"{found['nll']:.3f}"])
    print_table(["", "time, ratio (95 %)", "memory, MiB", "ACC", "ECE", "NLL"], rows)
    return points


def plot(points: dict[str, tuple[float, float]], path: Path) -> None:
    with plot_style():
        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.subplots()
        for index, (name, (cost, nll)) in enumerate(points.items()):
            axes.plot(
                cost,
                nll,
                label=name,
                **{
                    **series(index).line,
                    "linestyle": "none",
                    "fillstyle": "none" if index > 5 else "full",
                },
            )
        axes.set_xscale("log")
        axes.set_xlabel("time of a prediction, passes of plain LoRA")
        axes.set_ylabel("NLL (nats)")
        figure.legend(loc="outside right upper")
    figure.savefig(path)


def smoke_test(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        config = tiny_results(folder)
        plot(compare(config, folder, None, "reviews", options), folder / "ways.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=Path("few_shot_texts"))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", type=int, default=100, help="at most so many are timed")
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--output", type=Path, default=Path("ways_to_predict.png"))
    parser.add_argument("--smoke-test", action="store_true")
    options = parser.parse_args()
    begin(options.seed)
    if options.smoke_test:
        options.repeats = 1
        smoke_test(options)
        return
    config = read_config(HERE / "few_shot_texts.yaml")
    plot(compare(config, options.results, options.data_dir, options.task, options), options.output)


if __name__ == "__main__":
    main()
