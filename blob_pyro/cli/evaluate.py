"""``blob-pyro evaluate``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from blob_pyro.cli import options
from blob_pyro.cli.terminal import console, print_predictions, print_thresholds, print_warning, say
from blob_pyro.tasks import TextClassificationTask, find_task

# To print help, nothing heavy is imported.
if TYPE_CHECKING:
    from blob_pyro.cli.examples import Selection, Source
    from blob_pyro.recipe import Posterior, Predictions
    from blob_pyro.tasks import Task


def evaluate(
    posterior: options.PosteriorFolder,
    data: options.DataFile = None,
    text_column: options.TextColumn = "text",
    label_column: options.LabelColumn = "label",
    task: Annotated[
        str | None, typer.Option(help=f"{options.TASK_HELP} The trained one if left out.")
    ] = None,
    ood: Annotated[
        list[str] | None,
        typer.Option(
            help="Table of texts out of distribution, without labels, or another task of the "
            "same kind; repeatable."
        ),
    ] = None,
    data_dir: options.DataDir = None,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Evaluate that many examples of each task.")
    ] = None,
    skip_bad_rows: options.SkipBadRows = False,
    num_samples: options.NumSamples = 10,
    seed: options.Seed = 0,
    max_error: options.MaxError = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(help="Folder for the draws of the logits; POSTERIOR/evaluations if left out."),
    ] = None,
) -> None:
    """Measure accuracy and calibration of a saved posterior, with 95 % bootstrap intervals.

    For every data set, the draws of the logits, the labels and the ids are saved as a .npz file.
    For --ood, an AUROC is printed and histograms are drawn. For the first data set, a table and a
    picture show how many errors are left if only the surest answers are given. Without
    --output-dir, its metrics are written to the posterior's model card.

    Example: `blob-pyro evaluate blob_pyro_demo/posterior --num-samples 10`

    Example: `blob-pyro evaluate blob_pyro_demo/posterior --ood helpdesk_out_of_scope`

    Example: `blob-pyro evaluate posterior --data tickets.csv --ood strangers.csv`

    Example: `blob-pyro evaluate posterior --ood ai2_arc_easy --ood mmlu_college_chemistry`

    Example: `blob-pyro evaluate posterior --data held_out.csv --max-error 0.05`
    """
    from accelerate import Accelerator

    from blob_pyro.cli.examples import Selection, Source
    from blob_pyro.files.card import write_metrics
    from blob_pyro.recipe import load

    console.quiet = not Accelerator().is_main_process
    program = load(posterior)
    _ = program.classifier
    trained = cast("Task", program.task)
    selection = Selection(data_dir, limit, seed, skip_bad_rows)
    source = Source(task, data, text_column, label_column)
    others = [
        _other(posterior, trained, name, text_column, skip_bad_rows=skip_bad_rows)
        for name in ood or []
    ]
    tasks = [_first(posterior, trained, source, selection), *others]
    _check_places(tasks, data_dir)
    evaluations: dict[str, Predictions] = {}
    distances = bool(others) and isinstance(trained, TextClassificationTask)
    for held in [selection.held_by(each, "test") for each in tasks]:
        measure = program.predictive if evaluations else program.evaluate
        evaluations[held.name] = measure(
            held, num_samples=num_samples, seed=seed, feature_distance=distances
        )
    if console.quiet:
        return
    # First, since what follows may find a full disk.
    print_predictions(evaluations)
    name, first = next(iter(evaluations.items()))
    if first.is_labelled:
        print_thresholds(first)
    folder = output_dir or posterior / "evaluations"
    for other, evaluation in evaluations.items():
        # A name from a posterior could be a path to anywhere.
        file = re.sub(r"[^\w .+-]", "_", other) + f"-draws{num_samples}-seed{seed}"
        evaluation.save(folder / f"{file}.npz")
        if evaluation is not first:
            _draw(first, evaluation, folder / f"{file}.png")
        elif first.is_labelled:
            _draw_risk(first, folder / f"{file}.png")
    if output_dir is None and first.is_labelled:
        write_metrics(posterior, first.metrics(), len(first.labels), name)
    say(f"wrote {folder}: draws of the logits, and pictures")
    if max_error is not None:
        keep_threshold(posterior, program, first, max_error)
    elif first.is_labelled and program.answers is None:
        say("--max-error 0.05 keeps a threshold, by which predict says answer or defer")


def keep_threshold(folder: Path, program: Posterior, tested: Predictions, max_error: float) -> None:
    """Choose when a saved posterior answers, and write it beside the posterior."""
    from blob_pyro.files.saving import write_answers

    answers = program.choose_threshold(tested, max_error=max_error)
    write_answers(folder, answers)
    say(f"{folder} answers {answers}")


def _draw_risk(tested: Predictions, path: Path) -> None:
    from matplotlib.figure import Figure

    from blob_pyro.diagnostics import plot_risk_coverage, plot_style
    from blob_pyro.files.atomic import atomic_file

    with plot_style(), atomic_file(path) as file:
        figure = Figure(layout="constrained")
        plot_risk_coverage(tested.logits, tested.labels, ax=figure.subplots())
        figure.savefig(file)


def _first(folder: Path, trained: Task, source: Source, selection: Selection) -> Task:
    """Find what is in distribution: what the user names, or what the posterior was fitted to."""
    if source.task is not None:
        return _fitting(folder, trained, find_task(source.task))
    if source.data is None:
        return _trained_on(folder, trained)
    names = _of_texts(folder, trained, "--data").class_names
    texts = source.find(0, selection, names)
    if texts.name == trained.name:
        print_warning(
            f"{source.data} has the name of the file that {folder} was fitted to; metrics of "
            "training examples are too good"
        )
    # A table that nothing is held out from is one of training examples; these are all to test on.
    return replace(texts, splits={"test": texts.splits["train"]})


def _trained_on(folder: Path, trained: Task) -> Task:
    """Find the texts or questions again that a posterior was fitted to."""
    if trained.source is not None:
        return trained
    with suppress(ValueError):
        known = cast("TextClassificationTask", find_task(trained.name))
        # A user's file may have that name.
        if (known.class_names, known.prompt) == (trained.class_names, trained.prompt):
            return known
    raise ValueError(
        f"{folder} was fitted to {trained.name}, whose texts are not saved with it; give texts "
        "with --data, or name a --task"
    )


def _other(
    folder: Path, trained: Task, name: str, text_column: str, *, skip_bad_rows: bool
) -> Task:
    """Find what is out of distribution, in a file or of a known task."""
    from blob_pyro.tasks import read_texts

    path = Path(name)
    if not path.suffix:
        return _fitting(folder, trained, find_task(name))
    trained = _of_texts(folder, trained, f"--ood {name}")
    texts, num_bad = read_texts(path, text_column, skip_bad_rows=skip_bad_rows)
    if num_bad:
        say(f"{path}: {num_bad} bad rows skipped")
    unlabelled = {"test": texts.add_column("label", [-1] * len(texts))}
    return replace(trained, name=path.stem, splits=unlabelled, source=None)


def _of_texts(folder: Path, trained: Task, option: str) -> TextClassificationTask:
    if not isinstance(trained, TextClassificationTask):
        raise ValueError(
            f"{folder} answers questions, so {option}, which holds texts, does not fit; use --task "
            "and --data-dir"
        )
    return trained


def _draw(first: Predictions, other: Predictions, path: Path) -> None:
    """Write a histogram of each score."""
    from matplotlib.figure import Figure

    from blob_pyro.diagnostics import plot_scores
    from blob_pyro.files.atomic import atomic_file

    scores, others = first.ood_scores(), other.ood_scores()
    figure = Figure(figsize=(5 * len(scores), 4), layout="constrained")
    for axes, score in zip(figure.subplots(1, len(scores)), scores, strict=True):
        unit = " (nats)" if score in ("entropy", "mutual_information") else ""
        sign = "- " if score == "max_probability" else ""
        name = sign + score.replace("_", " ") + unit
        plot_scores(scores[score], others[score], name=name, ax=axes)
    with atomic_file(path) as file:
        figure.savefig(file)


def _fitting(folder: Path, trained: Task, task: Task) -> Task:
    if type(task) is not type(trained):
        kinds = ("classifies texts", "questions")
        if not isinstance(trained, TextClassificationTask):
            kinds = ("answers questions", "texts")
        raise ValueError(
            f"{folder} {kinds[0]} ({trained.name}), so {task.name}, which has {kinds[1]}, does not "
            "fit; name another task"
        )
    return task


def _check_places(tasks: Sequence[Task], data_dir: Path | None) -> None:
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two data sets are called {name}; leave one out, or rename its file")
    if data_dir is not None and all(task.source is None for task in tasks):
        raise ValueError(
            f"--data-dir holds the rows of --task or --ood, but those of {names[0]} are "
            "elsewhere; leave it out"
        )
