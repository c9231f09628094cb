"""``blob-pyro predict``."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, cast

import typer

from blob_pyro.cli.options import NumSamples, PosteriorFolder, Seed, SkipBadRows, TextColumn
from blob_pyro.cli.predict_table import Rows, check_files, predict_table
from blob_pyro.cli.terminal import console, print_json, print_table, print_warning
from blob_pyro.tasks import TextClassificationTask
from blob_pyro.tasks.text_files import is_like_header, is_like_row, json_row

if TYPE_CHECKING:
    from blob_pyro.recipe import Posterior, Predictions
    from blob_pyro.tasks import Task

PLACE = "standard input"
Example = dict[str, Any]


def read_examples(stream: IO[bytes], task: TextClassificationTask) -> Iterator[Example]:
    """Read one example a line, blank lines left out.

    Parameters
    ----------
    stream
        Lines of UTF-8: a JSON object if it begins with ``{``, else the text itself.
    task
        Decides whether an example needs a second text.

    Yields
    ------
    dict
        ``text``, ``text_pair`` for pairs and, if the object has it, ``id``.

    Raises
    ------
    ValueError
        If a line is no example, with its number and the reason.
    """
    for line, content in enumerate(stream, start=1):
        try:
            text = content.decode("utf-8-sig" if line == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{PLACE}, line {line}: is not UTF-8 text ({error.reason})") from error
        if text:
            _warn_of_table(text, line, task.class_names)
            row = json_row(PLACE, line, text) if text.startswith("{") else {"text": text}
            yield _example(row, task, f"{PLACE}, line {line}")


def in_groups(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    """Group examples; those before a bad one come in a group of their own before its error.

    Parameters
    ----------
    examples
        Any number of them.
    size
        How many a group has, but for the last.

    Yields
    ------
    list of dict
        In their order; nothing is kept of the groups before.

    Examples
    --------
    >>> [len(group) for group in in_groups(({"text": "a"} for _ in range(5)), 2)]
    [2, 2, 1]
    """
    group: list[Example] = []
    try:
        for example in examples:
            group.append(example)
            if len(group) == size:
                yield group
                group = []
    except ValueError:
        if group:
            yield group
        raise
    if group:
        yield group


def _warn_of_table(text: str, line: int, class_names: tuple[str, ...]) -> None:
    if line == 1 and is_like_header(text):
        hint = "like the header"
    elif is_like_row(text, class_names):
        hint = "like a row"
    else:
        return
    warnings.warn(
        f"{PLACE}, line {line}: looks {hint} of a CSV file, but each line is taken whole, as one "
        "text; pipe the column of texts alone, or JSON lines",
        stacklevel=2,
    )


def _example(row: dict[str, Any], task: TextClassificationTask, place: str) -> Example:
    names = ("text", "text_pair") if task.reads_pairs else ("text",)
    for name in names:
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise ValueError(
                f"{place}: {name!r} is {row.get(name)!r}; {task.name} needs a text there"
            )
    return {name: row[name] for name in (*names, "id") if name in row}


def predict(
    posterior: PosteriorFolder,
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="Texts to classify; - reads standard input, one a line."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Table to classify: .csv, .tsv, .jsonl or .parquet.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="File for the table with its answers; the same endings.")
    ] = None,
    text_column: TextColumn = "text",
    skip_bad_rows: SkipBadRows = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUTPUT.")] = False,
    defer_below: Annotated[
        float | None, typer.Option(min=0, max=1, help="Probability below which a person decides.")
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of answers that may be wrong, in place of the one chosen in evaluate.",
        ),
    ] = None,
    num_samples: NumSamples = 10,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Texts of a pass; standard input is answered so many a time.")
    ] = 16,
) -> None:
    """Classify texts, with total and epistemic uncertainty in nats.

    A line of standard input is a text, or a JSON object with "text" and perhaps "id" (and
    "text_pair" for pairs). Its answer is a JSON object. All lines have the same draws.
    A table of any size keeps its columns and gets class, probability and uncertainties. With a
    threshold (`evaluate --max-error`) it also gets the decision: answer or defer.

    Example: `blob-pyro predict blob_pyro_demo/posterior "the copier eats my badge" --json`

    Example: `blob-pyro predict posterior --data tickets.csv --output answers.csv`

    Example: `tail -f tickets.jsonl | blob-pyro predict posterior - --batch-size 1`
    """
    from accelerate import Accelerator
    from datasets import Dataset

    from blob_pyro.recipe import load

    accelerator = Accelerator()
    console.quiet = not accelerator.is_main_process
    if defer_below is not None and max_error is not None:
        raise ValueError("--defer-below and --max-error exclude each other; give one of them")
    if (data is None) != (output is None) or (data is not None and (texts or as_json)):
        raise ValueError("--data and --output go together, without TEXTS and --json")
    if data is not None and output is not None and accelerator.is_main_process:
        check_files(data, output, overwrite=overwrite)
    streams = data is None and _streams(texts)
    program = load(posterior)
    task = text_task(posterior, program)
    threshold = _threshold(program, defer_below, max_error, num_samples, seed)

    def share(rows: Rows) -> Predictions:
        given = Dataset.from_list(rows)
        found = program.predictive(given, num_samples=num_samples, seed=seed, progress=False)
        return replace(found, threshold=threshold)

    def classify(rows: Rows) -> Predictions:
        return share(from_first(rows))

    if not accelerator.is_main_process:
        # The first process alone reads and writes.
        while rows := from_first([]):
            share(rows)
    elif data is not None and output is not None:
        columns = [text_column, *(["text_pair"] if task.reads_pairs else [])]
        processes = accelerator.num_processes
        predict_table(
            classify, data, output, columns, skip_bad_rows=skip_bad_rows, processes=processes
        )
        from_first([])
    else:
        stream = typer.get_binary_stream("stdin")
        examples = read_examples(stream, task) if streams else _given(texts or [], task)
        groups = in_groups(examples, batch_size)
        answers = (row for group in groups for row in _answers(classify, group))
        _print_answers(answers, as_json=streams or as_json)
        from_first([])


def from_first(rows: Rows) -> Rows:
    """Give every process the rows of the first one."""
    from accelerate.utils import broadcast_object_list

    sent: list[Rows] = broadcast_object_list([rows])
    return sent[0]


def _threshold(
    program: Posterior,
    defer_below: float | None,
    max_error: float | None,
    num_samples: int,
    seed: int,
) -> float | None:
    """Find the threshold that was asked for or chosen, or say why there is none."""
    if defer_below is not None or (max_error is None and program.answers is None):
        return defer_below
    try:
        return program.threshold(max_error, num_samples=num_samples, seed=seed)
    except ValueError as error:
        if max_error is not None:
            raise
        print_warning(f"nothing is decided: {error}")
        return None


def _streams(texts: list[str] | None) -> bool:
    """Tell whether to read standard input, which nobody should have to type into by surprise."""
    if not texts and sys.stdin.isatty():
        raise ValueError("there is nothing to classify; give TEXTS, or pipe lines into it")
    return not texts or texts == ["-"]


def text_task(posterior: Path, program: Posterior) -> TextClassificationTask:
    """Give the task of a posterior that classifies texts.

    Raises
    ------
    ValueError
        If it does something else.
    """
    _ = program.classifier
    task = cast("Task", program.task)
    if not isinstance(task, TextClassificationTask):
        raise ValueError(
            f"{posterior} answers the questions of {task.name} and classifies no texts; use "
            "blob-pyro evaluate"
        )
    return task


def _given(texts: list[str], task: TextClassificationTask) -> Iterator[Example]:
    if task.reads_pairs:
        raise ValueError(
            f"{task.name} classifies pairs of texts; pipe JSON objects with text and text_pair "
            "into standard input"
        )
    for text in texts:
        if os.path.isfile(text):
            print_warning(
                f"{text} is a file, but its name is classified here; for its rows give --data "
                "FILE --output FILE"
            )
    return (_example({"text": text}, task, f"text {n}") for n, text in enumerate(texts, start=1))


def _answers(
    classify: Callable[[Rows], Predictions], examples: list[Example]
) -> Iterator[dict[str, Any]]:
    # Whatever an id is, it goes back as it came.
    texts = [{name: text for name, text in row.items() if name != "id"} for row in examples]
    predicted = classify(texts)
    names = predicted.class_names
    decided = predicted.threshold is not None
    decisions = predicted.decisions.tolist() if decided else [None] * len(texts)
    for example, probabilities, total, epistemic, decision in zip(
        examples,
        predicted.probabilities.tolist(),
        predicted.total_uncertainty.tolist(),
        predicted.epistemic_uncertainty.tolist(),
        decisions,
        strict=True,
    ):
        yield {
            **example,
            "class": names[probabilities.index(max(probabilities))],
            "probabilities": dict(zip(names, probabilities, strict=True)),
            "total_uncertainty": total,
            "epistemic_uncertainty": epistemic,
            **({"decision": decision} if decided else {}),
        }


def _print_answers(answers: Iterator[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        for row in answers:
            print_json(row)
        return
    rows = list(answers)
    columns = ["text", "class", "probability", "total (nats)", "epistemic (nats)"]
    columns += ["decision"] if "decision" in rows[0] else []
    cells = [
        (
            row["text"],
            row["class"],
            f"{row['probabilities'][row['class']]:.3f}",
            f"{row['total_uncertainty']:.3f}",
            f"{row['epistemic_uncertainty']:.3f}",
            *([row["decision"]] if "decision" in row else []),
        )
        for row in rows
    ]
    print_table(columns, cells)
