"""The tables and pictures of docs/few_shot_texts.md, from the results of its four benchmarks.

``python examples/benchmarks/few_shot_texts.py RESULTS`` reads the folders
``RESULTS/few_shot_texts``, ``RESULTS/few_shot_texts_more`` and so on, as many as there are, and
writes the parts of the page that are between marks.  Methods that were not run are left out, and
seeds for which one of the others is not finished.  ``--smoke-test`` prints the tables of a tiny
network.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import yaml
from matplotlib.figure import Figure

from blob_pyro.benchmark import (
    BenchmarkConfig,
    Cell,
    differences_table,
    markdown_table,
    paired_differences,
    plot_methods,
    read_config,
    run_benchmark,
    summary,
)
from blob_pyro.benchmark.cell import Results, finished_results
from blob_pyro.benchmark.tables import COLUMNS, Rows
from blob_pyro.diagnostics import plot_style
from blob_pyro.diagnostics.plots.style import series
from blob_pyro.networks import SMOLLM2
from blob_pyro.testing import tiny_base_folder, tiny_tokenizer

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
BENCHMARKS = [path.stem for path in sorted(HERE.glob("few_shot_texts*.yaml"))]
SIZES = "few_shot_texts_sizes"


def finished(config: BenchmarkConfig, folder: Path, task: str) -> BenchmarkConfig | None:
    """Leave out other tasks, what is not finished, and the untrained head of an encoder."""
    untrained = "" if config.model == SMOLLM2 else "zero_shot"
    keep = {
        name: method
        for name, method in config.methods.items()
        if name != untrained
        and any(Cell(name, task, seed).path(folder).exists() for seed in config.seeds)
    }
    seeds = [
        seed
        for seed in config.seeds
        if all(Cell(name, task, seed).path(folder).exists() for name in keep)
    ]
    if not (keep and seeds):
        return None
    return config.model_copy(
        update={"methods": keep, "seeds": tuple(seeds), "tasks": {task: config.tasks[task]}}
    )


def read_cells(config: BenchmarkConfig, folder: Path, task: str) -> dict[Cell, Results]:
    cells = [Cell(name, task, seed) for name in config.methods for seed in config.seeds]
    return {c: finished_results(c.path(folder), c.fingerprint(config)) for c in cells}


def tasks_of(
    config: BenchmarkConfig, folder: Path
) -> Iterator[tuple[str, BenchmarkConfig, dict[str, Rows]]]:
    """Summarise each task that has a finished seed, on each of its data sets."""
    for task in config.tasks:
        if done := finished(config, folder, task):
            cells = read_cells(done, folder, task)
            yield task, done, {on: summary(done, cells, task, on) for on in done.evaluated_on(task)}


def section(config: BenchmarkConfig, folder: Path, name: str, images: Path) -> str:
    """Write the tables of a benchmark, and draw its pictures."""
    parts = []
    for task, done, tested in tasks_of(config, folder):
        seeds = ", ".join(map(str, done.seeds))
        parts.append(
            f"**Trained on `{task}`**: {config.tasks[task].labels} in all for every method; at "
            f"most {config.max_test} test texts; seeds {seeds}."
        )
        for on, rows in tested.items():
            if on != task:
                parts.append(f"Trained on `{task}`, tested on `{on}`:")
            parts.append(markdown_table(rows))
            if differences := paired_differences(done, folder, task, on):
                parts.append("Differences to plain LoRA, and their 95 % intervals:")
                parts.append(differences_table(differences))
        picture = f"{name}_{task}.png"
        plot_methods(task, tested).savefig(images / picture)
        parts.append(f"![Accuracy, ECE and NLL of each method, {task}](images/{picture})")
    return "\n\n".join(parts)


def sizes_section(config: BenchmarkConfig, folder: Path, name: str, images: Path) -> str:
    """Write a table of each metric against the number of labels, and draw them."""
    found = {
        done.tasks[task].max_train: (done, tested[task])
        for task, done, tested in tasks_of(config, folder)
    }
    if not found:
        return ""
    # A number of labels is shown when all its methods are there.
    most = max(len(rows) for _, rows in found.values())
    found = {number: each for number, each in found.items() if len(each[1]) == most}
    seeds = {number: ", ".join(map(str, done.seeds)) for number, (done, _) in found.items()}
    parts = [f"Seeds: {'; '.join(f'{each} with {number}' for number, each in seeds.items())}."]
    methods = list(next(iter(found.values()))[1])
    with plot_style():
        figure = Figure(figsize=(11, 3.8), layout="constrained")
        panels: Any = figure.subplots(1, 3)
        for metric, axes in zip(("accuracy", "ece", "nll"), panels, strict=True):
            short, factor, _ = COLUMNS[metric]
            cells = {}
            for number, (_, rows) in found.items():
                cells[number] = {
                    row: mean_and_deviation(*values[metric]) for row, values in rows.items()
                }
            table = pandas.DataFrame.from_dict(cells, orient="index")
            table.index.name = f"{short}, labels"
            parts.append(table.to_markdown(disable_numparse=True))
            for index, method in enumerate(methods):
                means, errors = zip(
                    *(rows[method][metric] for _, rows in found.values()), strict=True
                )
                axes.errorbar(
                    list(found), means, errors, label=method, capsize=2, **series(index).line
                )
            axes.set_xscale("log", base=2)
            axes.set_xticks(list(found), list(map(str, found)))
            axes.set_xlabel("labels")
            axes.set_ylabel(f"{short} ({'%' if factor == 100 else 'nats'})")
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(methods)
        )
    figure.savefig(images / f"{name}.png")
    parts.append(f"![Accuracy, ECE and NLL against the number of labels](images/{name}.png)")
    return "\n\n".join(parts)


def mean_and_deviation(mean: float, deviation: float) -> str:
    # One seed has no standard deviation.
    return f"{mean:.2f}" + ("" if math.isnan(deviation) else f" ± {deviation:.2f}")


def with_section(page: str, name: str, text: str) -> str:
    """Put a text between the marks of its name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{text}\n{end}{after}"


def tiny_results(folder: Path) -> BenchmarkConfig:
    """Run a benchmark of the task ``reviews`` with a tiny network into a folder."""
    content = {
        "model": tiny_base_folder(folder / "base", tiny_tokenizer(["negative positive"])),
        "seeds": [0],
        "max_test": 20,
        "tasks": {"reviews": {"max_train": 8, "ood": ["helpdesk_out_of_scope"]}},
        "training": {"num_steps": 1},
        "methods": {
            "plain LoRA": {"method": "mle", "num_samples": [0]},
            "BLoB": {"num_samples": [0, 10]},
        },
    }
    (folder / "few.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    config = read_config(folder / "few.yaml")
    run_benchmark(config, folder)
    return config


def smoke_test() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        config = tiny_results(folder)
        print(section(config, folder, "few", folder))
        print(sizes_section(config, folder, "sizes", folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=Path())
    parser.add_argument("--smoke-test", action="store_true")
    options = parser.parse_args()
    if options.smoke_test:
        smoke_test()
        return
    page = DOCS / "few_shot_texts.md"
    text = page.read_text(encoding="utf-8")
    for name in BENCHMARKS:
        write = sizes_section if name == SIZES else section
        folder = options.results / name
        made = write(read_config(HERE / f"{name}.yaml"), folder, name, DOCS / "images")
        print(f"{folder}: {made.count('| ')} cells of tables")
        if made:
            text = with_section(text, name, made)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
