"""``blob-pyro train``."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blob_pyro.cli import options
from blob_pyro.cli.evaluate import keep_threshold
from blob_pyro.cli.terminal import console, print_predictions, print_warning, say
from blob_pyro.recipe import METHODS, RECIPES, Recipe
from blob_pyro.settings import load_yaml
from blob_pyro.tasks import TextClassificationTask

# To print help, nothing heavy is imported.
if TYPE_CHECKING:
    from accelerate import Accelerator

    from blob_pyro.recipe import Posterior, Predictions
    from blob_pyro.tasks import Task


def train(
    output_dir: Annotated[Path, typer.Option(help="Folder for the posterior.")],
    data: options.DataFile = None,
    text_column: options.TextColumn = "text",
    label_column: options.LabelColumn = "label",
    task: Annotated[str | None, typer.Option(help=options.TASK_HELP)] = None,
    data_dir: options.DataDir = None,
    max_train: options.MaxTrain = None,
    skip_bad_rows: options.SkipBadRows = False,
    test_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the rows of --data kept for the test.")
    ] = 0.2,
    validation_fraction: Annotated[
        float | None,
        typer.Option(
            help="Share of the training data kept for validation. If left out, a method that "
            "needs validation takes the task's validation split, or 0.2."
        ),
    ] = None,
    model: options.Model = options.DEFAULT_MODEL,
    method: Annotated[
        str | None,
        typer.Option(
            help=f"How to be Bayesian: {', '.join(METHODS)}.", autocompletion=lambda: [*METHODS]
        ),
    ] = None,
    recipe: Annotated[
        options.RecipeName, typer.Option(help="Settings to start from; --set changes them.")
    ] = options.RecipeName.small,
    num_steps: Annotated[
        int | None, typer.Option(min=1, help="Gradient steps; else as many as the data need.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any setting, such as rank=4, target_modules=[q_proj,v_proj] or "
            "options.num_members=5; repeatable. `blob-pyro settings` lists them.",
            autocompletion=options.setting_names,
        ),
    ] = None,
    num_samples: options.NumSamples = 10,
    seed: options.Seed = 0,
    max_error: options.MaxError = None,
    dtype: Annotated[
        options.Dtype, typer.Option(help="Dtype of the base model's weights.")
    ] = options.Dtype.float32,
    quantization: Annotated[
        options.Quantization | None,
        typer.Option(help="Of the base model's layers, with bitsandbytes; none if left out."),
    ] = None,
    mixed_precision: Annotated[
        options.Precision | None,
        typer.Option(help="Precision of the computation; that of accelerate launch if left out."),
    ] = None,
    tracker: Annotated[
        str | None, typer.Option(help="tensorboard, wandb or another that accelerate knows.")
    ] = None,
    save_every: Annotated[
        int | None, typer.Option(min=1, help="Steps between two checkpoints; none if left out.")
    ] = None,
    keep_last: Annotated[
        int, typer.Option(min=1, help="How many of the newest checkpoints are kept.")
    ] = 2,
    checkpoint_dir: Annotated[
        Path | None, typer.Option(help="Folder of checkpoints; OUTPUT_DIR-checkpoints if left out.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a posterior in OUTPUT_DIR.")
    ] = False,
) -> None:
    """Fine-tune a causal LM or an encoder on texts or questions and save its posterior.

    Example: `blob-pyro train --data tickets.csv --label-column queue --output-dir posterior`

    Example: `blob-pyro train --task openbookqa --max-train 500 --output-dir posterior`

    Example: `blob-pyro train --task glue_rte --model roberta-base --set rank=4 --output-dir p`
    """
    chosen = chosen_recipe(recipe, method, num_steps, seed, settings or [])
    from blob_pyro.cli.examples import Selection, Source
    from blob_pyro.networks import torch_dtype
    from blob_pyro.recipe import fine_tune
    from blob_pyro.training import CheckpointConfig, TrainingInterruptedError

    if resume and save_every is None:
        raise ValueError("--resume needs --save-every, as in the interrupted run")
    if task is None and data_dir is not None:
        raise ValueError("--data-dir belongs to --task; name a task too")
    seed = chosen.training.seed
    accelerator = prepared_accelerator(mixed_precision, tracker, output_dir, overwrite)
    selection = Selection(data_dir, max_train, seed, skip_bad_rows)
    source = Source(task, data, text_column, label_column).find(test_fraction, selection)
    _check_max_error(source, max_error)
    examples = selection.held_by(source, "train")
    if chosen.needs_validation and validation_fraction is None and source.has_validation(data_dir):
        examples = replace(selection, limit=None).held_by(examples, "validation")
    checkpoints = None
    if save_every is not None:
        folder = checkpoint_dir or _beside(output_dir, "checkpoints")
        checkpoints = CheckpointConfig(folder, save_every, keep_last, resume)
    try:
        posterior = fine_tune(
            examples,
            model,
            recipe=chosen,
            validation=validation_fraction,
            dtype=torch_dtype(dtype),
            quantization=None if quantization is None else quantization.value,
            checkpoints=checkpoints,
            accelerator=accelerator,
        )
    except TrainingInterruptedError as stop:
        say(f"blob-pyro: stopped by {stop}")
        raise typer.Exit(128 + stop.signal_number) from stop
    _say_what_was_kept(posterior, chosen, examples)
    if accelerator.is_main_process:
        posterior.save(output_dir)
        say(f"wrote {output_dir}")
    if "test" in source.splits:
        tested = posterior.evaluate(source, num_samples=num_samples, seed=seed)
        if accelerator.is_main_process:
            _report(posterior, source.name, tested, output_dir, max_error)
    if accelerator.is_main_process:
        _say_what_is_next(posterior, output_dir, text_column, label_column)
    # It ends the group of processes too, so nothing is shared out after it.
    accelerator.end_training()


def chosen_recipe(
    name: str, method: str | None, num_steps: int | None, seed: int, settings: list[str]
) -> Recipe:
    """Put the settings that were given in the place of a recipe's own."""
    given = {"method": method, "num_steps": num_steps}
    flags = {name: value for name, value in given.items() if value is not None}
    return RECIPES[name].changed(seed=seed).changed(**{**flags, **_pairs(settings)})


def _pairs(settings: list[str]) -> dict[str, Any]:
    """Read NAME=VALUE, where the value is written as in a benchmark's file."""
    pairs = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting} has no '='; give it as NAME=VALUE")
        pairs[name.strip()] = load_yaml(value)
    return pairs


def prepared_accelerator(
    precision: options.Precision | None, tracker: str | None, folder: Path, overwrite: bool
) -> Accelerator:
    """Make the accelerator of a run that writes to a folder, and let one process speak for all.

    Raises
    ------
    ValueError
        If the posterior could not be saved, accelerate was told of sharding that this library does
        not do, or the tracker's package is not installed.
    """
    from accelerate import Accelerator

    from blob_pyro.files import check_output
    from blob_pyro.networks.sharding import fsdp_plugin

    accelerator = Accelerator(
        mixed_precision=None if precision is None else precision.value,
        log_with=tracker,
        project_dir=_beside(folder, "logs"),
    )
    console.quiet = not accelerator.is_main_process
    fsdp_plugin(accelerator)
    if accelerator.is_main_process:
        check_output(folder, overwrite=overwrite)
    if tracker is not None:
        accelerator.init_trackers("blob-pyro")
        if not accelerator.trackers:
            raise ValueError(
                f"--tracker {tracker}: its package is not installed; install it, or leave it out"
            )
    return accelerator


def _beside(folder: Path, what: str) -> Path:
    # The folder "." has no name of its own.
    folder = folder if folder.name else folder.resolve()
    return folder.with_name(f"{folder.name}-{what}")


def _check_max_error(source: Task, max_error: float | None) -> None:
    """Refuse a threshold that no example would be left for."""
    if max_error is not None and "test" not in source.splits:
        raise ValueError(
            f"--max-error needs test examples, and none are held out from {source.name}; give "
            "--data with a --test-fraction above 0, or use blob-pyro evaluate --max-error"
        )


def _say_what_was_kept(posterior: Posterior, recipe: Recipe, task: Task) -> None:
    from blob_pyro.training import best_step

    num_rows = len(task.splits["train"])
    held_out = num_rows - posterior.model.num_data
    if held_out:
        say(f"{task.name}, validation: {held_out} of {num_rows} rows held out")
    best = best_step(posterior.records)
    # Several fits have a best step each.
    if best is not None and len(recipe.start_recipes()) < 2:
        say(f"kept the state after step {best + 1}, the best on validation data")


def _say_what_is_next(
    posterior: Posterior, folder: Path, text_column: str, label_column: str
) -> None:
    """Name the commands that use what was trained."""
    evaluate = f"blob-pyro evaluate {folder}"
    if isinstance(posterior.task, TextClassificationTask):
        columns = "" if text_column == "text" else f" --text-column {shlex.quote(text_column)}"
        columns += "" if label_column == "label" else f" --label-column {shlex.quote(label_column)}"
        say(f'next: blob-pyro predict {folder} "a text of yours"; {evaluate} --data FILE{columns}')
    else:
        say(f"next: {evaluate}")


def _report(
    posterior: Posterior, name: str, tested: Predictions, folder: Path, max_error: float | None
) -> None:
    """Show what the test says, on the card too, and what to change for a better fit."""
    from blob_pyro.diagnostics import fit_advice
    from blob_pyro.files.card import write_metrics

    write_metrics(folder, tested.metrics(), len(tested.labels))
    print_predictions({name: tested})
    steps = [record.step for record in posterior.records]
    # There is advice by the steps of one fit only.
    if steps and steps == list(range(len(steps))):
        num_data = posterior.model.num_data
        advice = fit_advice(posterior.records, num_data, tested.logits, tested.labels)
        if advice is not None:
            print_warning(advice)
    if max_error is not None:
        keep_threshold(folder, posterior, tested, max_error)
