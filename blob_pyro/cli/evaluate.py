"""``blob-pyro evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from blob_pyro.cli.options import (
    TASK_HELP,
    DataDir,
    DataFile,
    LabelColumn,
    NumSamples,
    PosteriorFolder,
    Seed,
    SkipBadRows,
    TextColumn,
)
from blob_pyro.cli.terminal import console, make_accelerator, print_predictions

if TYPE_CHECKING:
    from blob_pyro.recipe import Predictions
    from blob_pyro.tasks import Task


def evaluate(
    posterior: PosteriorFolder,
    data: DataFile = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    task: Annotated[
        str | None, typer.Option(help=f"{TASK_HELP} The trained one if left out.")
    ] = None,
    ood: Annotated[
        list[str] | None,
        typer.Option(
            help="Another such task, or helpdesk_out_of_scope, out of distribution; repeatable."
        ),
    ] = None,
    data_dir: DataDir = None,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Evaluate that many examples of each task.")
    ] = None,
    skip_bad_rows: SkipBadRows = False,
    num_samples: NumSamples = 10,
    seed: Seed = 0,
    output_dir: Annotated[
        Path | None,
        typer.Option(help="Folder for the draws of the logits; POSTERIOR/evaluations if left out."),
    ] = None,
) -> None:
    """Measure accuracy and calibration of a saved posterior, with 95 % bootstrap intervals.

    Every data set's draws of the logits, labels and ids are saved as a .npz file. Without
    --output-dir, the posterior's model card gets the metrics of the first data set.

    Example: `blob-pyro evaluate blob_pyro_demo/posterior --num-samples 10`

    Example: `blob-pyro evaluate blob_pyro_demo/posterior --ood helpdesk_out_of_scope`

    Example: `blob-pyro evaluate posterior --ood ai2_arc_easy --ood mmlu_college_chemistry`
    """
    from blob_pyro.cli.data import Selection
    from blob_pyro.cli.evaluated_sets import Asked, evaluated_sets
    from blob_pyro.recipe import load
    from blob_pyro.recipe.network import switch_task
    from blob_pyro.recipe.predictions import evaluate as evaluate_examples

    is_main = make_accelerator(None, None, posterior).is_main_process
    program = load(posterior)
    selection = Selection(data_dir, limit, seed, skip_bad_rows)
    asked = Asked(data, text_column, label_column, task, ood or [])
    sets = evaluated_sets(posterior, cast("Task", program.task), asked, selection)
    folder = output_dir or posterior / "evaluations"
    evaluations = {}
    for each, examples in sets:
        switch_task(program.classifier, each, program.tokenizer)
        evaluations[each.name] = evaluate_examples(
            program.classifier,
            program.guide,
            examples,
            program.collator,
            num_samples,
            seed,
            progress=not console.quiet,
        )
    if not is_main:
        return
    # First, since what follows may find a full disk.
    print_predictions(evaluations)
    for name, evaluation in evaluations.items():
        evaluation.save(folder / f"{name}-draws{num_samples}-seed{seed}.npz")
    if output_dir is None:
        _write_card(posterior, evaluations)
    console.print(f"wrote {folder}", markup=False)


def _write_card(posterior: Path, evaluations: dict[str, Predictions]) -> None:
    from blob_pyro.files.card import write_metrics

    name, first = next(iter(evaluations.items()))
    if first.is_labelled:
        write_metrics(posterior, first.metrics(), data=name)
