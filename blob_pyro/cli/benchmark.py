"""``blob-pyro benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blob_pyro.cli.options import DataDir
from blob_pyro.cli.terminal import console


def benchmark(
    config: Annotated[Path, typer.Argument(help="YAML file with model, tasks, methods and seeds.")],
    output_dir: Annotated[Path, typer.Option(help="Folder for results and tables.")],
    data_dir: DataDir = None,
) -> None:
    """Fit and evaluate methods on tasks with several seeds, and write the tables.

    An interrupted run goes on where it was; a finished one does nothing.

    Example: `blob-pyro benchmark few_shot.yaml --data-dir data --output-dir results`
    """
    from blob_pyro.benchmark import read_config, run_benchmark

    run_benchmark(read_config(config), output_dir, data_dir, console=console)
    typer.echo((output_dir / "tables.md").read_text(encoding="utf-8"))
