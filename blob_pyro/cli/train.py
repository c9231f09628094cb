"""``blob-pyro train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blob_pyro.cli.options import (
    DEFAULT_MODEL,
    TASK_HELP,
    DataDir,
    DataFile,
    Dtype,
    LabelColumn,
    MaxTrain,
    Model,
    NumSamples,
    Precision,
    RecipeName,
    Seed,
    SkipBadRows,
    TextColumn,
    setting_names,
)
from blob_pyro.recipe import METHODS, RECIPES, Recipe
from blob_pyro.settings import load_yaml

if TYPE_CHECKING:
    from blob_pyro.tasks import Task


def train(
    output_dir: Annotated[Path, typer.Option(help="Folder for the posterior.")],
    data: DataFile = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    task: Annotated[str | None, typer.Option(help=TASK_HELP)] = None,
    data_dir: DataDir = None,
    max_train: MaxTrain = None,
    skip_bad_rows: SkipBadRows = False,
    test_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the rows of --data kept for the test.")
    ] = 0.2,
    validation_fraction: Annotated[
        float | None,
        typer.Option(
            help="Share of the training data kept for validation; else the task's validation "
            "split, or 0.2 where a method needs some."
        ),
    ] = None,
    model: Model = DEFAULT_MODEL,
    method: Annotated[
        str | None,
        typer.Option(
            help=f"How to be Bayesian: {', '.join(METHODS)}.", autocompletion=lambda: [*METHODS]
        ),
    ] = None,
    recipe: Annotated[
        RecipeName, typer.Option(help="Settings to start from; --set changes them.")
    ] = RecipeName.small,
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
            autocompletion=setting_names,
        ),
    ] = None,
    num_samples: NumSamples = 10,
    seed: Seed = 0,
    dtype: Annotated[Dtype, typer.Option(help="Weights of the base model.")] = Dtype.float32,
    mixed_precision: Annotated[
        Precision | None, typer.Option(help="Of the computation; else what accelerate launch says.")
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
    from blob_pyro.cli import train_run
    from blob_pyro.cli.data import Selection, check_one_source, texts_task
    from blob_pyro.tasks import find_task

    check_one_source(task, data)
    if task is None and data_dir is not None:
        raise ValueError("--data-dir belongs to --task; name a task too")
    seed = chosen.training.seed
    with train_run.stopped_by_signal():
        folder = checkpoint_dir or output_dir.with_name(f"{output_dir.name}-checkpoints")
        checkpoints = train_run.checkpoint_config(folder, save_every, keep_last, resume)
        accelerator = train_run.prepared_accelerator(
            mixed_precision, tracker, output_dir, overwrite
        )
        if task is None:
            own = (data, text_column, label_column, test_fraction, seed, skip_bad_rows)
            source: Task = texts_task(*own)
        else:
            source = find_task(task)
        selection = Selection(data_dir, max_train, seed, skip_bad_rows)
        examples = train_run.read_examples(source, selection, chosen, validation_fraction)
        posterior = train_run.fit(chosen, model, dtype, examples, checkpoints, accelerator)
        train_run.save_and_test(posterior, output_dir, accelerator, num_samples, seed)
        # It ends the processes' group too, so nothing is shared out after it.
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
