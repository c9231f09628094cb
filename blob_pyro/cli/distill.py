"""``blob-pyro distill``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from blob_pyro.cli.options import NumSamples, PosteriorFolder, Seed, TextColumn
from blob_pyro.cli.predict import from_first, read_examples, text_task
from blob_pyro.cli.terminal import console, say
from blob_pyro.tasks import TextClassificationTask


def distill(
    posterior: PosteriorFolder,
    output_dir: Annotated[Path, typer.Option(help="Folder for the plain adapter.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Table of texts: .csv, .tsv, .jsonl or .parquet; repeatable; standard input if "
            "left out."
        ),
    ] = None,
    text_column: TextColumn = "text",
    num_samples: NumSamples = 10,
    num_steps: Annotated[
        int | None, typer.Option(min=1, help="Gradient steps; else as many as the texts need.")
    ] = None,
    seed: Seed = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a posterior in OUTPUT_DIR.")
    ] = False,
) -> None:
    """Teach what a posterior predicts to a plain adapter, which predicts in one pass.

    Give the training texts and as many others of their kind as you have; no label is read.
    Standard input holds them as for `predict`: a text or a JSON object a line.

    Example: `blob-pyro distill posterior --data tickets.csv --data others.csv --output-dir plain`

    Example: `blob-pyro distill posterior --output-dir plain < messages.txt`
    """
    from accelerate import Accelerator
    from datasets import Dataset

    from blob_pyro.files import check_output
    from blob_pyro.recipe import load

    is_main = Accelerator().is_main_process
    console.quiet = not is_main
    if is_main:
        check_output(output_dir, overwrite=overwrite)
    teacher = load(posterior)
    rows = from_first(
        _rows(data or [], text_column, text_task(posterior, teacher)) if is_main else []
    )
    texts = Dataset.from_list([{**row, "id": str(row.get("id", i))} for i, row in enumerate(rows)])
    student = teacher.distill(
        texts, num_samples=num_samples, num_steps=num_steps, seed=seed, progress=is_main
    )
    if is_main:
        student.save(output_dir)
    say(f'wrote {output_dir}; next: blob-pyro predict {output_dir} "a text of yours"')


def _rows(data: list[Path], text_column: str, task: TextClassificationTask) -> list[dict[str, Any]]:
    """Read the texts of tables, or of standard input if there are none."""
    from blob_pyro.tasks import read_texts

    if data and task.reads_pairs:
        raise ValueError(
            f"{task.name} classifies pairs of texts; pipe JSON objects with text and text_pair "
            "into standard input"
        )
    if data:
        found = [read_texts(path, text_column)[0]["text"] for path in data]
        return [{"text": text} for texts in found for text in texts]
    if sys.stdin.isatty():
        raise ValueError("there are no texts; give --data, or pipe lines into it")
    rows = [*read_examples(typer.get_binary_stream("stdin"), task)]
    if not rows:
        raise ValueError("standard input holds no texts; give --data, or pipe lines into it")
    return rows
