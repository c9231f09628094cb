"""The commands together, those of a few lines among them."""

import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Set
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from blob_pyro.cli.distill import distill
from blob_pyro.cli.evaluate import evaluate
from blob_pyro.cli.options import (
    DEFAULT_MODEL,
    DataDir,
    Dtype,
    Model,
    NumSamples,
    Quantization,
    Seed,
)
from blob_pyro.cli.predict import predict
from blob_pyro.cli.terminal import (
    console,
    one_line_errors,
    print_table,
    print_text,
    print_warning,
    say,
)
from blob_pyro.cli.train import train
from blob_pyro.recipe import METHODS, Recipe
from blob_pyro.settings import Settings
from blob_pyro.training import TrainingConfig
from blob_pyro.version import __version__

app = typer.Typer(
    help="Bayesian LoRA: fine-tune a language model with a posterior over its adapter.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def demo(
    output_dir: Annotated[Path, typer.Option(help="Folder for report, pictures and posterior.")] = (
        Path("blob_pyro_demo")
    ),
    model: Model = DEFAULT_MODEL,
    num_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Gradient steps of each method; few if left out, for minutes."),
    ] = None,
    num_samples: NumSamples = 10,
    seed: Seed = 0,
) -> None:
    """Compare plain LoRA with BLoB on reviews of one sentence, and show what calibration gains.

    Example: `blob-pyro demo --output-dir blob_pyro_demo`
    """
    from blob_pyro.benchmark import demo as demonstration
    from blob_pyro.files import check_output

    check_output(output_dir / "posterior", overwrite=True)
    found = demonstration.demonstrate(
        model, num_steps=num_steps, num_samples=num_samples, seed=seed, progress=not console.quiet
    )
    demonstration.write(found, output_dir, shlex.join(["blob-pyro", *sys.argv[1:]]))
    print_text(found.table().to_string())
    say(f"wrote {output_dir}/report.md, reliability.png, uncertainty.png, posterior.nc")


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
    from blob_pyro.files.atomic import check_writable

    chosen = read_config(config)
    check_writable(output_dir / "posteriors")
    run_benchmark(chosen, output_dir, data_dir, console=console)
    print_text((output_dir / "tables.md").read_text(encoding="utf-8"))
    say(f"wrote {output_dir}: tables.md, tables.tex, and pictures in plots")


def estimate(
    model: Annotated[
        str,
        typer.Option(
            help="Causal LM or encoder, without its weights: config.json, folder, Hub name, wheel."
        ),
    ],
    rank: Annotated[int, typer.Option(min=1, help="LoRA rank.")] = 8,
    target_modules: Annotated[
        str | None,
        typer.Option(help="Layers that get an adapter, with commas; PEFT's choice if left out."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples a step.")] = 4,
    sequence_length: Annotated[int, typer.Option(min=1, help="Tokens of each example.")] = 300,
    dtype: Annotated[Dtype, typer.Option(help="Of the base weights.")] = Dtype.bf16,
    quantization: Annotated[
        Quantization | None, typer.Option(help="Of the base model's layers; none if left out.")
    ] = None,
    num_shards: Annotated[
        int, typer.Option(min=1, help="Processes that divide the base model's layers, by FSDP.")
    ] = 1,
    num_samples: Annotated[
        int, typer.Option(min=1, help="Draws that share a pass of a prediction.")
    ] = 10,
) -> None:
    """Estimate parameters and memory of a step and a prediction, without any weights.

    Example: `blob-pyro estimate --model config.json --rank 8 --batch-size 4`
    """
    from blob_pyro.networks import torch_dtype
    from blob_pyro.recipe.memory import estimate_memory

    found = estimate_memory(
        model,
        None if target_modules is None else [name.strip() for name in target_modules.split(",")],
        rank=rank,
        batch_size=batch_size,
        sequence_length=sequence_length,
        dtype=torch_dtype(dtype),
        quantization=None if quantization is None else quantization.value,
        num_shards=num_shards,
        num_samples=num_samples,
    )
    print_table(
        ["parameters", ""],
        [
            ["base model, frozen", f"{found.base_parameters:,}"],
            ["trained: posterior, lora_B, a head", f"{found.trained_parameters:,}"],
        ],
    )
    rows = {
        "weights": (found.weights,) * 3,
        "what is trained": (found.posterior,) * 3,
        "optimiser": (found.optimizer, found.optimizer, 0),
        "activations and gradients": (found.activations, found.checkpointed, found.predicted),
        "sum": (found.total(), found.total(checkpointing=True), found.prediction),
    }
    if num_shards > 1:
        rows = {"layers put together": (found.gathered,) * 3, **rows}
    print_table(
        ["memory, GiB", "a step", "with checkpointing", "a prediction"],
        [[name, *(f"{size / 2**30:.3f}" for size in sizes)] for name, sizes in rows.items()],
    )


def settings() -> None:
    """List all settings with default and meaning, for `--set` and for benchmark files."""
    print_text(settings_page())


def settings_page() -> str:
    """Write all settings as the page ``docs/settings.md``."""
    lines = ["# Settings", "", *_INTRODUCTION]
    lines += ["", "## Of a recipe", "", *_settings_table(Recipe, leave_out={"options", "training"})]
    lines += ["", "## Of training", "", *_settings_table(TrainingConfig)]
    for method in METHODS.values():
        if method.options.model_fields:
            lines += ["", f"## Of the method `{method.name}`", ""]
            lines += _settings_table(method.options, prefix="options.")
    return "\n".join(lines)


_INTRODUCTION = """\
Every setting has one name in Python, in a benchmark's file and on the command line: \
`Recipe(rank=4)`, `rank: 4`, `--set rank=4`. `Recipe.training` has the settings of training, which \
`fine_tune(data, num_steps=100)` and `--set num_steps=100` take like the others. `blob-pyro \
settings` prints this page.
""".splitlines()


def _settings_table(
    group: type[Settings], prefix: str = "", leave_out: Set[str] = frozenset()
) -> Iterator[str]:
    yield "| name | default | meaning |"
    yield "|---|---|---|"
    for name, field in group.model_fields.items():
        if name not in leave_out:
            meaning = " ".join((field.description or "").split()).replace("``", "`")
            yield f"| `{prefix}{name}` | `{field.default}` | {meaning} |"


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


for command in (demo, train, evaluate, predict, distill, benchmark, estimate):
    app.command()(prepared(command))
app.command()(settings)


def _print_version(asked: bool) -> None:
    if asked:
        print_text(f"blob-pyro {__version__}")
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
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        code = 1
    except Exception as error:
        # Typer's own errors have no common public class, and it prints arguments as they are.
        if not hasattr(error, "format_message"):
            raise
        say(f"blob-pyro: {error.format_message().rstrip('.')}; see --help", style="red")
        code = 2
    sys.exit(code)
