"""Running a cell of a benchmark: a method fitted to a task with a seed, evaluated, and its cost."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from blob_pyro.benchmark.cell import Cell, Results, finished_results, write_results
from blob_pyro.benchmark.config import BenchmarkConfig
from blob_pyro.benchmark.data import (
    benchmark_task,
    evaluation_data,
    training_and_validation_data,
    training_data,
)
from blob_pyro.files import load_posterior
from blob_pyro.files.card import write_metrics
from blob_pyro.guides import LoraGuide
from blob_pyro.models import Classifier
from blob_pyro.networks import torch_dtype
from blob_pyro.recipe import Posterior, Predictions, find_method, fine_tune, posterior_from_fits
from blob_pyro.recipe.network import load_network
from blob_pyro.recipe.run import Program
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
        posterior = run.fitted(on_step)
    posterior.save(cell.posterior(folder))
    results = {
        "train_seconds": cost.seconds + sum(result["train_seconds"] for result in earlier),
        "train_bytes": max([cost.peak_bytes, *(result["train_bytes"] for result in earlier)]),
        "extra_parameters": extra_parameters(posterior.classifier, posterior.guide),
        "best_step": best_step(posterior.records),
        **run.evaluated(posterior),
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

    def fitted(self, on_step: OnStep | None) -> Posterior:
        """Fit to the task, or start from the cells that it starts from."""
        cell, recipe = self.cell, self.cell.recipe(self.config)
        task = benchmark_task(cell.task, self.config, self.data_dir, cell.seed)
        config = self.config.tasks[cell.task]
        data = (task, config, self.data_dir, cell.seed)
        train: Dataset
        validation: Dataset | float | None = None
        if not recipe.needs_validation:
            train = training_data(*data)
        elif config.validation_fraction is not None:
            train, validation = training_data(*data), config.validation_fraction
        else:
            train, validation = training_and_validation_data(*data)
        network = partial(
            load_network,
            self.config.model,
            task,
            torch_dtype(self.config.dtype),
            seed=recipe.training.seed,
            pooling=recipe.pooling,
            head=find_method(recipe.method).needs_head,
        )
        cells = cell.starts(self.config)
        if not cells:
            return fine_tune(
                replace(task, splits={"train": train}),
                network(),
                recipe=recipe,
                tokenizer=self.tokenizer,
                validation=validation,
                on_step=on_step,
                progress=False,
            )
        folders = (start.posterior(self.folder) for start in cells)
        fits = (cast(Program, load_posterior(folder, network())) for folder in folders)
        examples = validation if isinstance(validation, Dataset) else train
        model, guide = posterior_from_fits(recipe, fits, self.tokenizer, task, examples)
        scoring = recipe.scoring_of(model.network.get_base_model())
        return Posterior(model, guide, self.tokenizer, task, scoring, method=recipe.method)

    def evaluated(self, posterior: Posterior) -> Results:
        """Predict with each number of draws, and keep the draws."""
        cell, results = self.cell, Results(metrics={}, predict_seconds={}, predict_bytes={})
        counts = () if cell.member else self.config.methods[cell.method].num_samples
        predicted: dict[int, tuple[dict[str, Predictions], Cost]] = {}
        for num_samples in counts:
            # Fewer draws are the first of the largest number: no draw is predicted with twice.
            made = max(counts) if num_samples else 0
            if made not in predicted:
                predicted[made] = self._predicted(posterior, made)
            whole, cost = predicted[made]
            evaluations = {name: part.first_draws(num_samples or 1) for name, part in whole.items()}
            for name, evaluation in evaluations.items():
                evaluation.save(self.folder / "draws" / f"{cell}-{name}-draws{num_samples}.npz")
            if num_samples == max(counts):
                own, data = evaluations[cell.task], f"{cell.task}, {self.config.split}"
                write_metrics(cell.posterior(self.folder), own.metrics(), len(own.labels), data)
            # The draws of a linearised model share their passes.
            share = num_samples / made if made and posterior.guide.predictive == "network" else 1.0
            key = str(num_samples)
            results["metrics"][key] = _metrics(evaluations)
            results["predict_seconds"][key] = cost.seconds * share
            results["predict_bytes"][key] = cost.peak_bytes
        return results

    def _predicted(
        self, posterior: Posterior, num_samples: int
    ) -> tuple[dict[str, Predictions], Cost]:
        config, seed, tests = self.config, self.cell.seed, []
        for name in config.evaluated_on(self.cell.task):
            task = benchmark_task(name, config, self.data_dir, seed)
            trained_on = config.tasks[self.cell.task]
            data = evaluation_data(task, config, trained_on, self.data_dir, seed)
            tests.append(replace(task, splits={"test": data}))
        with measured() as cost:
            evaluations = {
                task.name: posterior.predictive(
                    task, num_samples=num_samples, seed=seed, progress=False
                )
                for task in tests
            }
        return evaluations, cost


def _metrics(evaluations: dict[str, Predictions]) -> dict[str, dict[str, float]]:
    first, *others = evaluations
    # Of texts whose classes the posterior does not know, only the uncertainty is measured.
    metrics = {
        name: evaluation.metrics() if evaluation.is_labelled else {}
        for name, evaluation in evaluations.items()
    }
    for name in others:
        for score, value in evaluations[first].ood_auroc(evaluations[name]).items():
            metrics[name]["auroc" if score == "entropy" else f"auroc_{score}"] = value
    return metrics


@dataclass
class Cost:
    """Time and memory, filled in when :func:`measured` ends.

    Parameters
    ----------
    seconds
        Wall-clock time.
    peak_bytes
        Most memory at one time: the GPU's, if there is one, else the process's resident memory,
        base model included.
    """

    seconds: float = 0.0
    peak_bytes: int = 0


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure what the body of a ``with`` statement costs.

    Where the system cannot forget an earlier peak of the process (other than Linux), that one
    counts too.

    Yields
    ------
    Cost
        Zeros until the body ends.

    Examples
    --------
    >>> with measured() as cost:
    ...     ones = torch.ones(1000)
    >>> cost.seconds > 0, cost.peak_bytes > 4000
    (True, True)
    """
    cost = Cost()
    _reset_peak()
    start = time.monotonic()
    yield cost
    cost.seconds = time.monotonic() - start
    cost.peak_bytes = _peak_bytes()


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif (switch := Path("/proc/self/clear_refs")).exists():
        switch.write_text("5")


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    # Kilobytes, but for macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def extra_parameters(model: Classifier, guide: LoraGuide) -> int:
    """Count the numbers that a fitted program keeps beyond those of plain LoRA.

    Parameters
    ----------
    model, guide
        The program.

    Returns
    -------
    int
        Entries of the guide's parameters and buffers, less those of the matrices that it covers
        (point estimates, ``B`` or heads, are those of plain LoRA).

    Examples
    --------
    >>> from blob_pyro.guides import LowRankGaussianGuide
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS", target_modules=["query"])
    >>> model = SequenceClassifier(net, 10)
    >>> extra_parameters(model, LowRankGaussianGuide(model))  # a scale for each entry of A
    64
    """
    plain = sum(site.projection.initial_weight.numel() for site in model.sites.values())
    return sum(tensor.numel() for tensor in guide.state_dict().values()) - plain
