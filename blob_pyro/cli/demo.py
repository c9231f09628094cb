"""``blob-pyro demo``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from blob_pyro.cli.options import DEFAULT_MODEL, Model, NumSamples, Seed
from blob_pyro.cli.terminal import console


def demo(
    output_dir: Annotated[Path, typer.Option(help="Folder for report, pictures and posterior.")] = (
        Path("blob_pyro_demo")
    ),
    model: Model = DEFAULT_MODEL,
    num_steps: Annotated[int, typer.Option(min=1, help="Gradient steps of each method.")] = 200,
    num_samples: NumSamples = 10,
    seed: Seed = 0,
) -> None:
    """Compare plain LoRA with BLoB on reviews of one sentence, and show what calibration gains.

    Example: `blob-pyro demo --output-dir blob_pyro_demo`
    """
    from blob_pyro.benchmark import demo as demonstration

    found = demonstration.demonstrate(
        model, num_steps=num_steps, num_samples=num_samples, seed=seed, progress=not console.quiet
    )
    demonstration.write(found, output_dir, shlex.join(["blob-pyro", *sys.argv[1:]]))
    typer.echo(found.table().to_string())
    console.print(f"wrote {output_dir}/report.md, reliability.png, uncertainty.png, posterior.nc")
