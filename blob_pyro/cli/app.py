"""The commands together."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from blob_pyro.cli.benchmark import benchmark
from blob_pyro.cli.demo import demo
from blob_pyro.cli.estimate import estimate
from blob_pyro.cli.evaluate import evaluate
from blob_pyro.cli.predict import predict
from blob_pyro.cli.settings import settings
from blob_pyro.cli.terminal import one_line_errors, print_warning
from blob_pyro.cli.train import train
from blob_pyro.version import __version__

app = typer.Typer(
    help="Bayesian LoRA: fine-tune a language model with a posterior over its adapter.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def prepared(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command run without the noise of the libraries underneath, and end in one line."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        with one_line_errors():
            _quiet()
            # A shell leaves the ~ of --output-dir=~/posterior as it is.
            given = {
                name: value.expanduser() if isinstance(value, Path) else value
                for name, value in kwargs.items()
            }
            command(*args, **given)

    return run


def _quiet() -> None:
    # What reads a GGUF file asks for its bar past Transformers' switch; tqdm reads this at import.
    os.environ.setdefault("TQDM_DISABLE", "1")
    # Not before a command runs: to print help, neither is needed.
    from transformers.utils import logging as transformers_logging

    from blob_pyro.training import flush_denormals

    flush_denormals()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


for command in (demo, train, evaluate, predict, benchmark, estimate):
    app.command()(prepared(command))
app.command()(settings)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"blob-pyro {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and end."),
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.showwarning = print_warning  # type: ignore[assignment]
    app()
