"""One cell of a benchmark: a method fitted to a task with a seed, and evaluated."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from blob_pyro.atomic_file import atomic_file
from blob_pyro.base_model import torch_dtype
from blob_pyro.benchmark.config import BenchmarkConfig
from blob_pyro.benchmark.cost import Cost, extra_parameters, measured
from blob_pyro.benchmark.data import (
    evaluation_data,
    training_and_validation_data,
    training_data,
)
from blob_pyro.checkpoint import load_posterior, save_posterior
from blob_pyro.evaluation import Evaluation, evaluate
from blob_pyro.guides import LoraGuide
from blob_pyro.likelihood import load_network, offer
from blob_pyro.methods import Program
from blob_pyro.models import Classifier
from blob_pyro.recipe import Recipe, fine_tune, finish
from blob_pyro.task_record import task_record
from blob_pyro.tasks import collator_for, find_task
from blob_pyro.training import StepRecord, best_step

Results = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A method, a task and a seed of a benchmark.

    Further members of an ensemble are cells that are fitted to the same examples with other seeds,
    and not evaluated.
    """

    method: str
    task: str
    seed: int
    member: int = 0

    def __str__(self) -> str:
        member = f"-member{self.member}" if self.member else ""
        return f"{self.method}-{self.task}-seed{self.seed}{member}"

    def path(self, folder: Path) -> Path:
        """Give the file that a finished cell is."""
        return folder / "cells" / f"{self}.json"

    def posterior(self, folder: Path) -> Path:
        """Give the folder that a finished cell's posterior is in."""
        return folder / "posteriors" / str(self)

    def recipe(self, config: BenchmarkConfig) -> Recipe:
        """Give the settings of its fit."""
        recipe = config.methods[self.method].recipe
        seeded = replace(recipe, training=replace(recipe.training, seed=self.seed))
        return seeded.member(self.member)

    def starts(self, config: BenchmarkConfig) -> list[Cell]:
        """Give the cells whose posteriors it starts from."""
        start = config.methods[self.method].start
        if start is None:
            return []
        count = len(self.recipe(config).start_recipes())
        members = range(self.member, self.member + count)
        return [Cell(start, self.task, self.seed, member) for member in members]

    def fingerprint(self, config: BenchmarkConfig) -> str:
        """Hash the settings that this cell's results depend on."""
        settings = {
            "model": config.model,
            "task": dataclasses.asdict(config.tasks[self.task]),
            "method": dataclasses.asdict(config.methods[self.method]),
            "test_limit": config.test_limit,
            "dtype": config.dtype,
            "split": config.split,
            "starts": [cell.fingerprint(config) for cell in self.starts(config)],
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
        Which one; the cells that it starts from are finished.
    config
        The benchmark.
    tokenizer
        Tokenizer of the base model.
    folder
        Results: ``cells/*.json``, the draws in ``draws/*.npz`` and the fits in ``posteriors/``.
    data_dir
        See :meth:`blob_pyro.tasks.MultipleChoiceTask.load`.
    on_step
        See :func:`blob_pyro.training.fit`.

    Returns
    -------
    dict
        ``metrics`` (number of draws, then data set, then metric), what it cost
        (``train_seconds``, which has in it those of the cells that it starts from, ``train_bytes``,
        and by number of draws ``predict_seconds`` and ``predict_bytes``), ``extra_parameters``,
        ``best_step`` (the one that early stopping kept, or None) and ``settings``.

    Raises
    ------
    ValueError
        If the folder holds the cell with other settings, or examples are lacking.
    """
    path, settings = cell.path(folder), cell.fingerprint(config)
    if path.exists():
        return _finished(path, settings)
    cells = cell.starts(config)
    earlier = [_finished(start.path(folder), start.fingerprint(config)) for start in cells]
    with measured() as cost:
        model, guide, records = _fitted(cell, config, tokenizer, folder, data_dir, on_step)
    scoring = cell.recipe(config).scoring_of(model.network.get_base_model())
    record = task_record(find_task(cell.task), scoring)
    save_posterior(cell.posterior(folder), model, guide, task=record)
    results = {
        "train_seconds": cost.seconds + sum(result["train_seconds"] for result in earlier),
        "train_bytes": max([cost.peak_bytes, *(result["train_bytes"] for result in earlier)]),
        "extra_parameters": extra_parameters(model, guide),
        "best_step": best_step(records),
        **_evaluated(cell, config, (model, guide), tokenizer, folder, data_dir),
        "settings": settings,
    }
    _write(path, results)
    return results


def _fitted(
    cell: Cell,
    config: BenchmarkConfig,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    data_dir: Path | None,
    on_step: Callable[[StepRecord], None] | None,
) -> tuple[Classifier, LoraGuide, list[StepRecord]]:
    recipe, task, task_config = cell.recipe(config), find_task(cell.task), config.tasks[cell.task]
    validation = None
    if recipe.takes_validation:
        train, validation = training_and_validation_data(task, task_config, data_dir, cell.seed)
    else:
        train = training_data(task, task_config, data_dir, cell.seed)
    network = partial(load_network, config.model, task, torch_dtype(config.dtype), seed=cell.seed)
    cells = cell.starts(config)
    if not cells:
        return fine_tune(
            recipe, network(), tokenizer, task, train, validation=validation, on_step=on_step
        )
    starts = (cast(Program, load_posterior(start.posterior(folder), network())) for start in cells)
    return *finish(recipe, starts, tokenizer, task, train if validation is None else validation), []


def _evaluated(
    cell: Cell,
    config: BenchmarkConfig,
    program: Program,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    data_dir: Path | None,
) -> Results:
    results: Results = {"metrics": {}, "predict_seconds": {}, "predict_bytes": {}}
    counts = () if cell.member else config.methods[cell.method].num_samples
    predicted: dict[int, tuple[dict[str, Evaluation], Cost]] = {}
    for num_samples in counts:
        # Fewer draws are the first of the largest number: no draw is predicted with twice.
        made = max(counts) if num_samples else 0
        if made not in predicted:
            predicted[made] = _predicted(cell, config, program, tokenizer, data_dir, made)
        whole, cost = predicted[made]
        evaluations = {name: part.first_draws(num_samples or 1) for name, part in whole.items()}
        for name, evaluation in evaluations.items():
            evaluation.save(folder / "draws" / f"{cell}-{name}-draws{num_samples}.npz")
        key = str(num_samples)
        results["metrics"][key] = _metrics(evaluations)
        results["predict_seconds"][key] = cost.seconds * (num_samples / made if made else 1)
        results["predict_bytes"][key] = cost.peak_bytes
    return results


def _predicted(
    cell: Cell,
    config: BenchmarkConfig,
    program: Program,
    tokenizer: PreTrainedTokenizerBase,
    data_dir: Path | None,
    num_samples: int,
) -> tuple[dict[str, Evaluation], Cost]:
    model, guide = program
    scoring = cell.recipe(config).scoring_of(model.network.get_base_model())
    collator = collator_for(find_task(cell.task), tokenizer, scoring)
    tasks = {name: find_task(name) for name in config.evaluated_on(cell.task)}
    tests = {
        name: evaluation_data(task, config, config.tasks[cell.task], data_dir, cell.seed)
        for name, task in tasks.items()
    }
    evaluations = {}
    with measured() as cost:
        for name, data in tests.items():
            offer(model, tasks[name], tokenizer)
            loader = collator.loader(data)
            evaluations[name] = evaluate(
                model, guide, loader, data["id"], num_samples, cell.seed, progress=False
            )
    return evaluations, cost


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
