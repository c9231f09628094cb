"""The work of ``blob-pyro train``, apart from its options, which cost no imports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer
from accelerate import Accelerator
from datasets import Dataset

from blob_pyro.cli.data import Selection, training_and_validation
from blob_pyro.cli.options import Precision
from blob_pyro.cli.terminal import (
    check_can_save,
    console,
    make_accelerator,
    print_predictions,
    print_warning,
)
from blob_pyro.diagnostics import fit_advice
from blob_pyro.files import check_output
from blob_pyro.files.card import write_metrics
from blob_pyro.networks import load_tokenizer, torch_dtype
from blob_pyro.recipe import Posterior, Recipe, run_recipe
from blob_pyro.recipe.network import load_network
from blob_pyro.recipe.predictions import Predictions, evaluate
from blob_pyro.tasks import Task, TextClassificationTask
from blob_pyro.training import CheckpointConfig, TrainingInterruptedError, best_step
from blob_pyro.training.progress import TrainingProgress


@contextmanager
def stopped_by_signal() -> Iterator[None]:
    """Turn a stop that was asked for into one line on stderr and a shell's exit code for it."""
    try:
        yield
    except TrainingInterruptedError as stop:
        console.print(f"blob-pyro: stopped by {stop}", markup=False, soft_wrap=True)
        raise typer.Exit(128 + stop.signal_number) from stop


def checkpoint_config(
    folder: Path, save_every: int | None, keep_last: int, resume: bool
) -> CheckpointConfig | None:
    """Say where checkpoints go, if there are any."""
    if save_every is None:
        if resume:
            raise ValueError("--resume needs --save-every, as the run that it goes on with had")
        return None
    return CheckpointConfig(folder, save_every, keep_last, resume)


def prepared_accelerator(
    precision: Precision | None, tracker: str | None, output_dir: Path, overwrite: bool
) -> Accelerator:
    """Make the accelerator, and make sure that the posterior can be saved."""
    accelerator = make_accelerator(precision, tracker, output_dir)
    if accelerator.is_main_process:
        check_output(output_dir, overwrite=overwrite)
    check_can_save(accelerator)
    return accelerator


@dataclass(frozen=True)
class Examples:
    """A task, and its examples to fit to and to validate on."""

    task: Task
    train: Dataset
    validation: Dataset | None


def read_examples(
    task: Task, selection: Selection, recipe: Recipe, validation_fraction: float | None
) -> Examples:
    """Read the examples that a recipe needs."""
    return Examples(task, *training_and_validation(task, selection, recipe, validation_fraction))


def fit(
    recipe: Recipe,
    model: str,
    dtype: str,
    examples: Examples,
    checkpoints: CheckpointConfig | None,
    accelerator: Accelerator,
) -> Posterior:
    """Follow a recipe on a base model."""
    tokenizer = load_tokenizer(model)
    network = load_network(
        model,
        examples.task,
        torch_dtype(dtype),
        seed=recipe.training.seed,
        pooling=recipe.pooling,
    )
    recipe = recipe.for_data(len(examples.train), accelerator.num_processes)
    with TrainingProgress(recipe.method, recipe.num_steps, console) as on_step:
        fitted, guide, records = run_recipe(
            recipe,
            network,
            tokenizer,
            examples.task,
            examples.train,
            validation=examples.validation,
            checkpoints=checkpoints,
            accelerator=accelerator,
            on_step=on_step,
        )
    best = best_step(records)
    # Several fits have a best step each.
    if best is not None and len(recipe.start_recipes()) < 2:
        console.print(f"kept the state after step {best + 1}, the best on validation data")
    scoring = recipe.scoring_of(network)
    return Posterior(
        fitted, guide, tokenizer, examples.task, scoring, method=recipe.method, records=records
    )


def save_and_test(
    posterior: Posterior, folder: Path, accelerator: Accelerator, num_samples: int, seed: int
) -> None:
    """Write the posterior, and measure it on the test texts of its task if there are some."""
    if accelerator.is_main_process:
        posterior.save(folder)
        console.print(f"wrote {folder}")
    task = posterior.task
    if not isinstance(task, TextClassificationTask) or "test" not in task.splits:
        return
    tested = evaluate(
        posterior.classifier,
        posterior.guide,
        task.load("test").data,
        posterior.collator,
        num_samples,
        seed,
        progress=not console.quiet,
    )
    if accelerator.is_main_process:
        write_metrics(folder, tested.metrics())
        print_predictions({task.name: tested})
        _advise(posterior, tested)


def _advise(posterior: Posterior, tested: Predictions) -> None:
    """Say what to change, if the posterior has the steps of one fit to judge by."""
    steps = [record.step for record in posterior.records]
    if steps and steps == list(range(len(steps))):
        num_data = posterior.model.num_data
        advice = fit_advice(posterior.records, num_data, tested.logits, tested.labels)
        if advice is not None:
            print_warning(advice)
