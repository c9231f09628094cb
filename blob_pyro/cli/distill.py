"""``blob-pyro distill``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blob_pyro.cli.options import NumSamples, PosteriorFolder, Seed
from blob_pyro.cli.predict import read_examples, text_task
from blob_pyro.cli.terminal import say


def distill(
    posterior: PosteriorFolder,
    output_dir: Annotated[Path, typer.Option(help="Folder for the plain adapter.")],
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

    Standard input holds the texts to learn on, as for `predict`: a text or a JSON object a line.
    Give the training texts and as many others as you have; no label is read.

    Example: `blob-pyro distill posterior --output-dir plain < messages.txt`
    """
    from datasets import Dataset

    from blob_pyro.files import check_output
    from blob_pyro.recipe import load

    check_output(output_dir, overwrite=overwrite)
    teacher = load(posterior)
    task = text_task(posterior, teacher)
    stream = typer.get_binary_stream("stdin")
    rows = [
        {**row, "id": str(row.get("id", i))} for i, row in enumerate(read_examples(stream, task))
    ]
    if not rows:
        raise ValueError("standard input holds no texts; pipe lines into it")
    texts = Dataset.from_list(rows)
    student = teacher.distill(texts, num_samples=num_samples, num_steps=num_steps, seed=seed)
    student.save(output_dir)
    say(f"wrote {output_dir}")
