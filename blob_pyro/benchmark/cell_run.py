"""Running a cell of a benchmark: a method fitted to a task with a seed, and evaluated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from transformers import PreTrainedTokenizerBase

from blob_pyro.benchmark.cell import Cell, Results, finished_results, write_results
from blob_pyro.benchmark.config import BenchmarkConfig
from blob_pyro.benchmark.cost import Cost, extra_parameters, measured
from blob_pyro.benchmark.data import evaluation_data, training_and_validation_data, training_data
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

OnStep = Callable[[StepRecord], None]


def run_cell(
    cell: Cell,
    config: BenchmarkConfig,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    data_dir: Path | None,
    *,
    on_step: OnStep | None = None,
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
    run = _Run(cell, config, tokenizer, folder, data_dir)
    starts = cell.starts(config)
    earlier = [finished_results(start.path(folder), start.fingerprint(config)) for start in starts]
    with measured() as cost:
        model, guide, records = run.fitted(on_step)
    run.save(model, guide)
    results = {
        "train_seconds": cost.seconds + sum(result["train_seconds"] for result in earlier),
        "train_bytes": max([cost.peak_bytes, *(result["train_bytes"] for result in earlier)]),
        "extra_parameters": extra_parameters(model, guide),
        "best_step": best_step(records),
        **run.evaluated(model, guide),
        "settings": settings,
    }
    write_results(path, results)
    return results


@dataclass(frozen=True)
class _Run:
    """A cell, and all that it takes to run it."""

    cell: Cell
    config: BenchmarkConfig
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    data_dir: Path | None

    def fitted(self, on_step: OnStep | None) -> tuple[Classifier, LoraGuide, list[StepRecord]]:
        """Fit the program."""
        cell, recipe, task = self.cell, self.cell.recipe(self.config), find_task(self.cell.task)
        data = (task, self.config.tasks[cell.task], self.data_dir, cell.seed)
        train, validation = (
            training_and_validation_data(*data)
            if recipe.needs_validation
            else (training_data(*data), None)
        )
        dtype, pooling = torch_dtype(self.config.dtype), recipe.pooling
        network = partial(
            load_network, self.config.model, task, dtype, seed=cell.seed, pooling=pooling
        )
        cells = cell.starts(self.config)
        if not cells:
            program = (recipe, network(), self.tokenizer, task, train)
            return run_recipe(*program, validation=validation, on_step=on_step)
        folders = (start.posterior(self.folder) for start in cells)
        fits = (cast(Program, load_posterior(folder, network())) for folder in folders)
        examples = train if validation is None else validation
        return *posterior_from_fits(recipe, fits, self.tokenizer, task, examples), []

    def save(self, model: Classifier, guide: LoraGuide) -> None:
        """Save the fitted program."""
        recipe, place = self.cell.recipe(self.config), self.cell.posterior(self.folder)
        scoring = recipe.scoring_of(model.network.get_base_model())
        record, method = task_record(find_task(self.cell.task), scoring), recipe.method
        save_posterior(place, model, guide, task=record, method=method, tokenizer=self.tokenizer)

    def evaluated(self, model: Classifier, guide: LoraGuide) -> Results:
        """Predict with each number of draws, and keep the draws."""
        cell, results = self.cell, Results(metrics={}, predict_seconds={}, predict_bytes={})
        counts = () if cell.member else self.config.methods[cell.method].num_samples
        predicted: dict[int, tuple[dict[str, Predictions], Cost]] = {}
        for num_samples in counts:
            # Fewer draws are the first of the largest number: no draw is predicted with twice.
            made = max(counts) if num_samples else 0
            if made not in predicted:
                predicted[made] = self._predicted(model, guide, made)
            whole, cost = predicted[made]
            evaluations = {name: part.first_draws(num_samples or 1) for name, part in whole.items()}
            for name, evaluation in evaluations.items():
                evaluation.save(self.folder / "draws" / f"{cell}-{name}-draws{num_samples}.npz")
            if num_samples == max(counts):
                own, data = evaluations[cell.task], f"{cell.task}, {self.config.split}"
                write_metrics(cell.posterior(self.folder), own.metrics(), len(own.labels), data)
            # The draws of a linearised model share their passes.
            share = num_samples / made if made and guide.predictive == "network" else 1.0
            key = str(num_samples)
            results["metrics"][key] = _metrics(evaluations)
            results["predict_seconds"][key] = cost.seconds * share
            results["predict_bytes"][key] = cost.peak_bytes
        return results

    def _predicted(
        self, model: Classifier, guide: LoraGuide, num_samples: int
    ) -> tuple[dict[str, Predictions], Cost]:
        cell, config = self.cell, self.config
        scoring = cell.recipe(config).scoring_of(model.network.get_base_model())
        collator = collator_for(find_task(cell.task), self.tokenizer, scoring)
        trained_on, evaluations = config.tasks[cell.task], {}
        tasks = {name: find_task(name) for name in config.evaluated_on(cell.task)}
        tests = {
            name: evaluation_data(task, config, trained_on, self.data_dir, cell.seed)
            for name, task in tasks.items()
        }
        with measured() as cost:
            for name, data in tests.items():
                switch_task(model, tasks[name], self.tokenizer)
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
