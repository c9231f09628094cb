"""``blob-pyro predict``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from datasets import Dataset

from blob_pyro.cli.data import load
from blob_pyro.cli.options import NumSamples, Posterior, Seed
from blob_pyro.cli.terminal import one_line_errors, print_table
from blob_pyro.diagnostics import log_probs, mutual_information, predictive_entropy
from blob_pyro.infer import posterior_predictive
from blob_pyro.tasks import Task, TextClassificationTask


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
        program = load(posterior)
        class_names = _class_names(posterior, program.task)
        loader = program.collator.loader(Dataset.from_dict({"text": texts}))
        predictive = posterior_predictive(program.model, program.guide, loader, num_samples, seed)
        logits = predictive["logits"]
        rows = list(_predictions(texts, logits, class_names))
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row, ensure_ascii=False))
    else:
        _print_predictions(rows)


def _class_names(posterior: Path, task: Task) -> tuple[str, ...]:
    if not isinstance(task, TextClassificationTask):
        raise ValueError(
            f"{posterior} answers the questions of {task.name} and classifies no texts; use "
            "blob-pyro evaluate"
        )
    return task.class_names


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


def _print_predictions(rows: list[dict[str, Any]]) -> None:
    columns = ("text", "label", "probability", "entropy (nats)", "mutual information (nats)")
    cells = [
        (
            row["text"],
            row["label"],
            f"{row['probabilities'][row['label']]:.3f}",
            f"{row['entropy']:.3f}",
            f"{row['mutual_information']:.3f}",
        )
        for row in rows
    ]
    print_table(columns, cells)
