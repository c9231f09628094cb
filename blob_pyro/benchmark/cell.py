"""One cell of a benchmark: a method fitted to a task with a seed, and evaluated."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from blob_pyro.atomic_file import atomic_file
from blob_pyro.benchmark.config import BenchmarkConfig
from blob_pyro.evaluation import Evaluation, evaluate
from blob_pyro.likelihood import load_network, offer
from blob_pyro.recipe import torch_dtype
from blob_pyro.tasks import collator_for, find_task
from blob_pyro.training import StepRecord

Results = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A method, a task and a seed of a benchmark."""

    method: str
    task: str
    seed: int

    def __str__(self) -> str:
        return f"{self.method}-{self.task}-seed{self.seed}"

    def path(self, folder: Path) -> Path:
        """Give the file that a finished cell is."""
        return folder / "cells" / f"{self}.json"

    def fingerprint(self, config: BenchmarkConfig) -> str:
        """Hash the settings that this cell's results depend on."""
        settings = {
            "model": config.model,
            "task": dataclasses.asdict(config.tasks[self.task]),
            "method": dataclasses.asdict(config.methods[self.method]),
            "test_limit": config.test_limit,
            "dtype": config.dtype,
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def run_cell(
    cell: Cell,
    config: BenchmarkConfig,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    data_dir: Path | None,
    *,
    on_step: Callable[[StepRecord], None] | None = None,
) -> Results:
    """Fit and evaluate one cell, or read it if it is finished.

    Parameters
    ----------
    cell
        Which one.
    config
        The benchmark.
    tokenizer
        Tokenizer of the base model.
    folder
        Results: ``cells/*.json`` and the draws in ``draws/*.npz``.
    data_dir
        See :meth:`blob_pyro.tasks.MultipleChoiceTask.load`.
    on_step
        See :func:`blob_pyro.training.fit`.

    Returns
    -------
    dict
        ``metrics`` (number of draws, then data set, then metric), ``train_seconds`` and
        ``settings``.

    Raises
    ------
    ValueError
        If the folder holds the cell with other settings.
    """
    path, settings = cell.path(folder), cell.fingerprint(config)
    if path.exists():
        return _finished(path, settings)
    method = config.methods[cell.method]
    recipe = replace(method.recipe, training=replace(method.recipe.training, seed=cell.seed))
    task, task_config = find_task(cell.task), config.tasks[cell.task]
    train = task.load("train", data_dir=data_dir, limit=task_config.train, seed=cell.seed).data
    tests = {name: _test(name, config, data_dir) for name in (cell.task, *task_config.ood)}
    network = load_network(config.model, task, torch_dtype(config.dtype), seed=cell.seed)
    started = time.monotonic()
    model, guide, _ = recipe.fine_tune(network, tokenizer, task, train, on_step=on_step)
    seconds = time.monotonic() - started
    collator = collator_for(task, tokenizer, recipe.scoring_of(network))
    metrics = {}
    for num_samples in method.num_samples:
        evaluations = {}
        for name, data in tests.items():
            offer(model, find_task(name), tokenizer)
            loader = collator.loader(data)
            evaluations[name] = evaluate(
                model, guide, loader, data["id"], num_samples, cell.seed, progress=False
            )
            evaluations[name].save(folder / "draws" / f"{cell}-{name}-draws{num_samples}.npz")
        metrics[str(num_samples)] = _metrics(evaluations)
    results = {"metrics": metrics, "train_seconds": seconds, "settings": settings}
    _write(path, results)
    return results


def _test(name: str, config: BenchmarkConfig, data_dir: Path | None) -> Dataset:
    # The same examples for every seed.
    return find_task(name).load("test", data_dir=data_dir, limit=config.test_limit).data


def _metrics(evaluations: dict[str, Evaluation]) -> dict[str, dict[str, float]]:
    first, *others = evaluations
    metrics = {name: evaluation.metrics() for name, evaluation in evaluations.items()}
    for name in others:
        metrics[name]["auroc"] = evaluations[first].ood_auroc(evaluations[name])
    return metrics


def _finished(path: Path, settings: str) -> Results:
    try:
        results: Results = json.loads(path.read_text(encoding="utf-8"))
        found = results["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it, to run the cell again"
        ) from error
    if found != settings:
        raise ValueError(
            f"{path} was made with other settings; give another --output-dir, or delete it "
            "to run the cell again"
        )
    return results


def _write(path: Path, results: Results) -> None:
    with atomic_file(path) as file:
        file.write(json.dumps(results, indent=2).encode())
