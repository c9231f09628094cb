"""``blob-pyro train``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from blob_pyro.base_model import SMOLLM2, load_tokenizer
from blob_pyro.checkpoint import check_output, save_posterior
from blob_pyro.cli.data import Selection, texts_task
from blob_pyro.cli.options import (
    TASK_HELP,
    DataDir,
    DataFile,
    Dtype,
    LabelColumn,
    Model,
    NumSamples,
    RecipeName,
    ScoringName,
    Seed,
    SkipBadRows,
    TextColumn,
)
from blob_pyro.cli.terminal import console, one_line_errors, print_metrics
from blob_pyro.diagnostics import summarize
from blob_pyro.infer import posterior_predictive
from blob_pyro.likelihood import load_network
from blob_pyro.progress import TrainingProgress
from blob_pyro.recipe import RECIPES, Recipe, torch_dtype
from blob_pyro.task_record import task_record
from blob_pyro.tasks import TextClassificationTask, collator_for, find_task
from blob_pyro.training import TrainingConfig

Settings = TypeVar("Settings", Recipe, TrainingConfig)


def train(
    output_dir: Annotated[Path, typer.Option(help="Folder for the posterior.")],
    data: DataFile = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    test_fraction: Annotated[float, typer.Option(help="Share of the rows kept for testing.")] = 0.2,
    task: Annotated[str | None, typer.Option(help=TASK_HELP)] = None,
    data_dir: DataDir = None,
    limit_train: Annotated[
        int | None, typer.Option(min=1, help="Train on that many examples, chosen by the seed.")
    ] = None,
    skip_bad_rows: SkipBadRows = False,
    model: Model = SMOLLM2,
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
    steps: Annotated[int | None, typer.Option(help="Gradient steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate of B and M.")] = None,
    num_samples: NumSamples = 10,
    dtype: Annotated[Dtype, typer.Option(help="Weights of the base model.")] = Dtype.float32,
    seed: Seed = 0,
) -> None:
    """Fine-tune a causal LM or an encoder on texts or questions and save its posterior.

    Example: `blob-pyro train --data tickets.csv --label-column queue --output-dir posterior`

    Example: `blob-pyro train --task openbookqa --limit-train 500 --output-dir posterior`

    Example: `blob-pyro train --task glue_rte --model roberta-base --output-dir posterior`
    """
    with one_line_errors():
        check_output(output_dir)
        if task is not None and data is not None:
            raise ValueError("--task and --data exclude each other; give one of them")
        if task is None and data_dir is not None:
            raise ValueError("--data-dir belongs to --task; name a task too")
        training = _changed(
            RECIPES[recipe].training,
            num_steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
        )
        settings = _changed(
            RECIPES[recipe],
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
        examples = Selection(data_dir, limit_train, seed, skip_bad_rows).read(chosen, "train")
        tokenizer = load_tokenizer(model)
        network = load_network(model, chosen, torch_dtype(dtype.value), seed=seed)
        with TrainingProgress("BLoB", training.num_steps, console) as on_step:
            fitted, guide, _ = settings.fine_tune(
                network, tokenizer, chosen, examples, on_step=on_step
            )
        answering = settings.scoring_of(network)
        save_posterior(output_dir, fitted, guide, task=task_record(chosen, answering))
        console.print(f"wrote {output_dir}")
        if isinstance(chosen, TextClassificationTask) and "test" in chosen.splits:
            loader = collator_for(chosen, tokenizer, answering).loader(chosen.splits["test"])
            predictive = posterior_predictive(fitted, guide, loader, num_samples, seed)
            print_metrics(summarize(predictive["logits"], predictive["labels"]))


def _names(target: str | None) -> tuple[str, ...] | None:
    return None if target is None else tuple(name.strip() for name in target.split(","))


def _changed(settings: Settings, **options: Any) -> Settings:
    """Put the options that were given in the place of a recipe's own."""
    given = {name: value for name, value in options.items() if value is not None}
    return replace(settings, **given)
