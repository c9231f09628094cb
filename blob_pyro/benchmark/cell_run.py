"""Running a cell of a benchmark: a method fitted to a task with a seed, and evaluated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

from transformers import PreTrainedTokenizerBase

from blob_pyro.benchmark.cell import Cell, Results, finished_results, write_results
from blob_pyro.benchmark.config import BenchmarkConfig
from blob_pyro.benchmark.cost import Cost, extra_parameters, measured
from blob_pyro.benchmark.data import (
    evaluation_data,
    training_and_validation_data,
    training_data,
)
from blob_pyro.files import load_posterior, save_posterior
from blob_pyro.files.card import write_metrics
from blob_pyro.files.task import task_record
from blob_pyro.guides import LoraGuide
from blob_pyro.models import Classifier
from blob_pyro.networks import torch_dtype
from blob_pyro.recipe import posterior_from_fits, run_recipe
from blob_pyro.recipe.network import load_network, switch_task
from blob_pyro.recipe.predictions import Predictions, evaluate
from blob_pyro.recipe.run import Program
from blob_pyro.tasks import collator_for, find_task
from blob_pyro.training import StepRecord, best_step


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
        See :meth:`blob_pyro.tasks.DataTask.load`.
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
        return finished_results(path, settings)
    cells = cell.starts(config)
    earlier = [finished_results(start.path(folder), start.fingerprint(config)) for start in cells]
    with measured() as cost:
        model, guide, records = _fitted(cell, config, tokenizer, folder, data_dir, on_step)
    _save(cell, config, (model, guide), tokenizer, folder)
    results = {
        "train_seconds": cost.seconds + sum(result["train_seconds"] for result in earlier),
        "train_bytes": max([cost.peak_bytes, *(result["train_bytes"] for result in earlier)]),
        "extra_parameters": extra_parameters(model, guide),
        "best_step": best_step(records),
        **_evaluated(cell, config, (model, guide), tokenizer, folder, data_dir),
        "settings": settings,
    }
    write_results(path, results)
    return results


def _save(
    cell: Cell,
    config: BenchmarkConfig,
    program: Program,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> None:
    recipe, (model, _) = cell.recipe(config), program
    scoring = recipe.scoring_of(model.network.get_base_model())
    record = task_record(find_task(cell.task), scoring)
    where, method = cell.posterior(folder), recipe.method
    save_posterior(where, *program, task=record, method=method, tokenizer=tokenizer)


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
    if recipe.needs_validation:
        train, validation = training_and_validation_data(task, task_config, data_dir, cell.seed)
    else:
        train = training_data(task, task_config, data_dir, cell.seed)
    network = partial(
        load_network,
        config.model,
        task,
        torch_dtype(config.dtype),
        seed=cell.seed,
        pooling=recipe.pooling,
    )
    cells = cell.starts(config)
    if not cells:
        return run_recipe(
            recipe, network(), tokenizer, task, train, validation=validation, on_step=on_step
        )
    starts = (cast(Program, load_posterior(start.posterior(folder), network())) for start in cells)
    return *posterior_from_fits(
        recipe, starts, tokenizer, task, train if validation is None else validation
    ), []


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
    predicted: dict[int, tuple[dict[str, Predictions], Cost]] = {}
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
        if num_samples == max(counts):
            own = evaluations[cell.task]
            data = f"{cell.task}, {config.split}"
            write_metrics(cell.posterior(folder), own.metrics(), len(own.labels), data)
        results["predict_seconds"][key] = cost.seconds * _share(program[1], num_samples, made)
        results["predict_bytes"][key] = cost.peak_bytes
    return results


def _share(guide: LoraGuide, num_samples: int, made: int) -> float:
    """Give the part of the time of ``made`` draws that fewer of them take."""
    # Those of a linearised model share their passes.
    alike = guide.predictive != "network"
    return 1.0 if alike or made == 0 else num_samples / made


def _predicted(
    cell: Cell,
    config: BenchmarkConfig,
    program: Program,
    tokenizer: PreTrainedTokenizerBase,
    data_dir: Path | None,
    num_samples: int,
) -> tuple[dict[str, Predictions], Cost]:
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
            switch_task(model, tasks[name], tokenizer)
            evaluations[name] = evaluate(
                model, guide, data, collator, num_samples, cell.seed, progress=False
            )
    return evaluations, cost


def _metrics(evaluations: dict[str, Predictions]) -> dict[str, dict[str, float]]:
    first, *others = evaluations
    metrics = {name: evaluation.metrics() for name, evaluation in evaluations.items()}
    for name in others:
        metrics[name]["auroc"] = evaluations[first].ood_auroc(evaluations[name])
    return metrics
