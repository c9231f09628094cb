"""The commands together."""

from __future__ import annotations

import warnings

import typer
from transformers.utils import logging as transformers_logging

from blob_pyro.cli.benchmark import benchmark
from blob_pyro.cli.demo import demo
from blob_pyro.cli.estimate import estimate
from blob_pyro.cli.evaluate import evaluate
from blob_pyro.cli.predict import predict
from blob_pyro.cli.terminal import print_warning
from blob_pyro.cli.train import train
from blob_pyro.training import flush_denormals

app = typer.Typer(
    help="Bayesian LoRA: fine-tune a language model with a posterior over its adapter.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for command in (demo, train, evaluate, predict, benchmark, estimate):
    app.command()(command)


def main() -> None:
    """Run the command line, showing this library's progress but not that of those underneath."""
    flush_denormals()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.showwarning = print_warning  # type: ignore[assignment]
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    app()
