"""``blob-pyro train``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import yaml

from blob_pyro.cli.data import Selection, check_one_source, texts_task, training_and_validation
from blob_pyro.cli.options import (
    TASK_HELP,
    DataDir,
    DataFile,
    Dtype,
    LabelColumn,
    Model,
    NumSamples,
    Precision,
    RecipeName,
    ScoringName,
    Seed,
    SkipBadRows,
    TextColumn,
)
from blob_pyro.cli.terminal import (
    check_can_save,
    console,
    make_accelerator,
    one_line_errors,
    print_metrics,
    stopped_by_signal,
)
from blob_pyro.diagnostics import summarize
from blob_pyro.files import check_output, save_posterior
from blob_pyro.files.card import write_metrics
from blob_pyro.files.task import task_record
from blob_pyro.networks import SMOLLM2, load_tokenizer, torch_dtype
from blob_pyro.recipe import METHODS, RECIPES, Recipe, run_recipe
from blob_pyro.recipe.network import load_network
from blob_pyro.tasks import TextClassificationTask, collator_for, find_task
from blob_pyro.training import CheckpointConfig, TrainingConfig, best_step, sharded_predictive
from blob_pyro.training.progress import TrainingProgress

Settings = TypeVar("Settings", Recipe, TrainingConfig)


def train(
    output_dir: Annotated[Path, typer.Option(help="Folder for the posterior.")],
    data: DataFile = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    test_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the rows kept for testing.")
    ] = 0.2,
    task: Annotated[str | None, typer.Option(help=TASK_HELP)] = None,
    data_dir: DataDir = None,
    limit_train: Annotated[
        int | None, typer.Option(min=1, help="Train on that many examples, chosen by the seed.")
    ] = None,
    skip_bad_rows: SkipBadRows = False,
    model: Model = SMOLLM2,
    method: Annotated[
        str | None, typer.Option(help=f"How to be Bayesian: {', '.join(METHODS)}.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="Method whose fit --method starts from, if not its usual one."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Setting of the method, as NAME=VALUE; repeatable. See docs/methods.md."),
    ] = None,
    recipe: Annotated[
        RecipeName, typer.Option(help="Settings to start from; the options below change them.")
    ] = RecipeName.small,
    scoring: Annotated[
        ScoringName | None,
        typer.Option(help="A causal LM answers by the text of options and classes, or by letter."),
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of the adapter.")] = None,
    target: Annotated[
        str | None, typer.Option(help="Layers to adapt, separated by commas.")
    ] = None,
    prior_scale: Annotated[float | None, typer.Option(help="Prior sd of A.")] = None,
    init_scale: Annotated[
        float | None, typer.Option(help="Root of the initial posterior sd.")
    ] = None,
    kl_scale: Annotated[
        float | None, typer.Option(help="Weight of the KL; 1 is the full ELBO.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Gradient steps.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Examples a process and pass.")
    ] = None,
    accumulation_steps: Annotated[
        int | None, typer.Option(min=1, help="Passes whose gradients make one step.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate of B and M.")] = None,
    num_samples: NumSamples = 10,
    dtype: Annotated[Dtype, typer.Option(help="Weights of the base model.")] = Dtype.float32,
    mixed_precision: Annotated[
        Precision | None, typer.Option(help="Of the computation; else what accelerate launch says.")
    ] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = False,
    compile_network: Annotated[
        bool, typer.Option("--compile", help="Compile the network by torch.compile.")
    ] = False,
    tracker: Annotated[
        str | None, typer.Option(help="tensorboard, wandb or another that accelerate knows.")
    ] = None,
    validate_every: Annotated[
        int | None,
        typer.Option(min=1, help="Steps between two looks at validation data; the best stays."),
    ] = None,
    validation_fraction: Annotated[
        float | None,
        typer.Option(
            help="Share of the training data for it; else the task's validation split, or 0.2."
        ),
    ] = None,
    save_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps between two checkpoints; none if left out.")
    ] = None,
    checkpoint_dir: Annotated[
        Path | None, typer.Option(help="Folder of checkpoints; OUTPUT_DIR-checkpoints if left out.")
    ] = None,
    keep_checkpoints: Annotated[
        int, typer.Option(min=1, help="How many of the newest checkpoints are kept.")
    ] = 2,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint.")
    ] = False,
    seed: Seed = 0,
) -> None:
    """Fine-tune a causal LM or an encoder on texts or questions and save its posterior.

    Example: `blob-pyro train --data tickets.csv --label-column queue --output-dir posterior`

    Example: `blob-pyro train --task openbookqa --limit-train 500 --output-dir posterior`

    Example: `blob-pyro train --task glue_rte --model roberta-base --output-dir posterior`
    """
    with one_line_errors(), stopped_by_signal():
        check_output(output_dir)
        accelerator = make_accelerator(mixed_precision, tracker, output_dir)
        check_can_save(accelerator)
        check_one_source(task, data)
        if task is None and data_dir is not None:
            raise ValueError("--data-dir belongs to --task; name a task too")
        training = _changed(
            RECIPES[recipe].training,
            num_steps=steps,
            batch_size=batch_size,
            accumulation_steps=accumulation_steps,
            learning_rate=learning_rate,
            gradient_checkpointing=gradient_checkpointing,
            compile=compile_network,
            validate_every=validate_every,
            seed=seed,
        )
        settings = _changed(
            RECIPES[recipe],
            method=method,
            start=start,
            options=_options(option),
            rank=rank,
            target_modules=_names(target),
            scoring=None if scoring is None else scoring.value,
            prior_scale=prior_scale,
            init_scale=init_scale,
            kl_scale=kl_scale,
            training=training,
        )
        chosen = (
            texts_task(data, text_column, label_column, test_fraction, seed, skip_bad_rows)
            if task is None
            else find_task(task)
        )
        selection = Selection(data_dir, limit_train, seed, skip_bad_rows)
        examples, validation = training_and_validation(
            chosen, selection, settings, validation_fraction
        )
        checkpoints = _checkpoints(
            checkpoint_dir or output_dir.with_name(f"{output_dir.name}-checkpoints"),
            save_steps,
            keep_checkpoints,
            resume,
        )
        tokenizer = load_tokenizer(model)
        network = load_network(model, chosen, torch_dtype(dtype.value), seed=seed)
        with TrainingProgress(settings.method, settings.num_steps, console) as on_step:
            fitted, guide, records = run_recipe(
                settings,
                network,
                tokenizer,
                chosen,
                examples,
                validation=validation,
                checkpoints=checkpoints,
                accelerator=accelerator,
                on_step=on_step,
            )
        accelerator.end_training()
        best = best_step(records)
        # Several fits have a best step each.
        if best is not None and len(settings.start_recipes()) < 2:
            console.print(f"kept the state after step {best + 1}, the best on validation data")
        answering = settings.scoring_of(network)
        if accelerator.is_main_process:
            record = task_record(chosen, answering)
            save_posterior(output_dir, fitted, guide, task=record, method=settings.method)
            console.print(f"wrote {output_dir}")
        if isinstance(chosen, TextClassificationTask) and "test" in chosen.splits:
            test, collator = chosen.splits["test"], collator_for(chosen, tokenizer, answering)
            predictive = sharded_predictive(
                fitted, guide, test, collator, num_samples, seed, progress=not console.quiet
            )
            if accelerator.is_main_process:
                metrics = summarize(predictive["logits"], predictive["labels"])
                write_metrics(output_dir, metrics)
                print_metrics(metrics)


def _names(target: str | None) -> tuple[str, ...] | None:
    return None if target is None else tuple(name.strip() for name in target.split(","))


def _options(given: list[str] | None) -> dict[str, Any] | None:
    """Read NAME=VALUE, where the value is written as in a benchmark's file."""
    if given is None:
        return None
    for setting in given:
        if "=" not in setting:
            raise ValueError(f"--option {setting} has no '='; give it as NAME=VALUE")
    pairs = (setting.split("=", 1) for setting in given)
    return {name: yaml.safe_load(value) for name, value in pairs}


def _checkpoints(
    folder: Path, save_steps: int | None, keep_last: int, resume: bool
) -> CheckpointConfig | None:
    if save_steps is None:
        if resume:
            raise ValueError("--resume needs --save-steps, as the run that it goes on with had")
        return None
    return CheckpointConfig(folder, save_steps, keep_last, resume)


def _changed(settings: Settings, **options: Any) -> Settings:
    """Put the options that were given in the place of a recipe's own."""
    given = {name: value for name, value in options.items() if value is not None}
    return replace(settings, **given)
