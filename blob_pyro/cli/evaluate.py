"""``blob-pyro evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, cast

import typer

from blob_pyro.cli.data import labelled_texts, load, questions
from blob_pyro.cli.options import (
    TASK_HELP,
    DataDir,
    DataFile,
    LabelColumn,
    NumSamples,
    Posterior,
    Seed,
    SkipBadRows,
    TextColumn,
)
from blob_pyro.cli.terminal import console, one_line_errors, print_table
from blob_pyro.evaluation import Evaluation
from blob_pyro.evaluation import evaluate as evaluate_examples
from blob_pyro.models import OptionLikelihood
from blob_pyro.tasks import MultipleChoiceTask, Task, find_task


def evaluate(
    posterior: Posterior,
    data: DataFile = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    task: Annotated[
        str | None, typer.Option(help=f"{TASK_HELP} The trained one if left out.")
    ] = None,
    ood: Annotated[
        list[str] | None, typer.Option(help="Another such task, out of distribution; repeatable.")
    ] = None,
    data_dir: DataDir = None,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Evaluate that many questions of each task.")
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

    Every data set's draws of the logits, labels and ids are saved as a .npz file.

    Example: `blob-pyro evaluate blob_pyro_demo/posterior --num-samples 10`

    Example: `blob-pyro evaluate posterior --ood ai2_arc_easy --ood mmlu_college_chemistry`
    """
    with one_line_errors():
        model, guide, trained, collator = load(posterior)
        if isinstance(trained, MultipleChoiceTask):
            if data is not None:
                raise ValueError(
                    f"{posterior} answers questions, so --data, which holds texts, does not fit; "
                    "use --task and --data-dir"
                )
            names = [task or trained.name, *(ood or [])]
            # Room for the data set with most options; those that a question lacks are -inf.
            cast(OptionLikelihood, model).num_options = max(
                find_task(name).num_options for name in names
            )
            sets = {
                name: questions(find_task(name), "test", data_dir, limit, seed, skip_bad_rows)
                for name in names
            }
        else:
            _refuse_questions(posterior, trained, task, ood, limit)
            texts = labelled_texts(trained, data, text_column, label_column)
            ids = [str(index) for index in range(len(texts))]
            sets = {trained.name: texts.add_column("id", ids)}
        folder = output_dir or posterior / "evaluations"
        evaluations = {}
        for name, examples in sets.items():
            evaluations[name] = evaluate_examples(
                model, guide, collator.loader(examples), examples["id"], num_samples, seed
            )
            evaluations[name].save(folder / f"{name}-draws{num_samples}-seed{seed}.npz")
    _print(evaluations)
    console.print(f"wrote {folder}")


def _refuse_questions(
    posterior: Path,
    trained: Task,
    task: str | None,
    ood: Sequence[str] | None,
    limit: int | None,
) -> None:
    if task is not None or ood or limit is not None:
        raise ValueError(
            f"{posterior} classifies texts ({trained.name}), so --task, --ood and --limit, which "
            "are for questions, do not fit; give texts with --data"
        )


def _print(evaluations: dict[str, Evaluation]) -> None:
    first, *_ = evaluations.values()
    columns = ["", "examples", *first.metrics(), *(["AUROC"] if len(evaluations) > 1 else [])]
    rows = []
    for name, evaluation in evaluations.items():
        intervals = evaluation.intervals()
        cells = [
            f"{value:.3f} [{intervals[metric][0]:.3f}, {intervals[metric][1]:.3f}]"
            for metric, value in evaluation.metrics().items()
        ]
        if len(evaluations) > 1:
            cells.append("" if evaluation is first else f"{first.ood_auroc(evaluation):.3f}")
        rows.append([name, str(len(evaluation.labels)), *cells])
    print_table(columns, rows)
