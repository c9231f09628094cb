"""``blob-pyro demo``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

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
    """Compare plain LoRA with BLoB on help-desk messages, and show what calibration gains.

    Example: `blob-pyro demo --output-dir blob_pyro_demo`
    """
    from blob_pyro.benchmark import demo as demonstration

    comparison = demonstration.compare(
        model, num_steps=num_steps, num_samples=num_samples, seed=seed, console=console
    )
    command = shlex.join(["blob-pyro", *sys.argv[1:]])
    demonstration.write(comparison, output_dir, command)
    Console().print(demonstration.table(comparison.metrics))
    console.print(f"wrote {output_dir}/report.md, reliability.png, uncertainty.png, posterior.nc")
