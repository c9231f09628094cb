"""``blob-pyro predict --data``: a table in, the same table with its answers out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from blob_pyro.cli.terminal import console, say
from blob_pyro.tasks.text_files import Row, table_rows, text_cell

if TYPE_CHECKING:
    from blob_pyro.recipe import Predictions

Rows = list[dict[str, Any]]
# Rows of a process that are in memory at a time.
GROUP = 512
_TEXTS = ("text", "text_pair")
_ANSWERS = ("class", "probability", "total_uncertainty", "epistemic_uncertainty", "decision")


def check_files(data: Path, output: Path, *, overwrite: bool) -> None:
    """Refuse a table that could not be written, or would replace a file, before any work is done.

    Raises
    ------
    ValueError
        If the ending is unknown, the file exists (unless ``overwrite``), or is the input itself.
    """
    if output.suffix.lower() not in _WRITERS:
        raise ValueError(f"{output}: the ending is unknown; give one of {', '.join(_WRITERS)}")
    if not output.exists():
        return
    if output.is_dir() or (data.exists() and output.samefile(data)):
        what = "a folder" if output.is_dir() else "the table that is read"
        raise ValueError(f"{output} is {what}; give another --output")
    if not overwrite:
        raise ValueError(f"{output} exists; give another file, or --overwrite to replace it")


def predict_table(
    classify: Callable[[Rows], Predictions],
    data: Path,
    output: Path,
    text_columns: Sequence[str],
    *,
    skip_bad_rows: bool,
    processes: int = 1,
) -> None:
    """Answer the rows of a table, some at a time, into a file that is there whole or not at all.

    Parameters
    ----------
    classify
        Predicts some texts.
    data, output
        Tables, see :func:`blob_pyro.tasks.text_files.table_rows`.
    text_columns
        Column of the texts, and of the second texts if there are pairs.
    skip_bad_rows
        Leave out rows that have no text, and count them.
    processes
        How many share the work of ``classify``.

    Raises
    ------
    ValueError
        If a row has no text, or has a column of the answers' names.
    """
    from blob_pyro.files.atomic import atomic_file
    from blob_pyro.infer.progress import Progress
    from blob_pyro.tasks.task_data import parsed_rows

    free = output.suffix.lower() == ".jsonl"
    rows = _named_alike(data, table_rows(data, text_columns), free=free)
    examples = parsed_rows(rows, lambda row: _texts(row, text_columns), skip_bad_rows)
    read, bad = 0, 0

    def answered() -> Iterator[Rows]:
        nonlocal read, bad
        with Progress("predicting", None, console) as progress:
            while group := [*islice(examples, GROUP * processes)]:
                found = [example for example in group if example is not None]
                read, bad = read + len(group), bad + len(group) - len(found)
                if found:
                    frame = classify([texts for texts, _ in found]).to_pandas()
                    columns = frame.drop(columns="text").to_dict("records")
                    yield [{**row, **new} for (_, row), new in zip(found, columns, strict=True)]
                progress.update(read, f"{read} rows")

    with atomic_file(output) as file:
        _WRITERS[output.suffix.lower()](file, answered(), data)
        if read == bad:
            but = f" but {bad} bad ones (without --skip-bad-rows the first says why)"
            raise ValueError(f"{data}: the file has no rows{but if bad else ''}")
    say(f"wrote {output}, {read - bad} rows" + (f"; {bad} bad rows skipped" if bad else ""))


def _texts(row: Row, columns: Sequence[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Give what is classified of a row, and the row by column."""
    texts = {name: text_cell(row, column) for name, column in zip(_TEXTS, columns, strict=False)}
    return texts, dict(zip(row[1], row[2], strict=True))


def _named_alike(data: Path, rows: Iterator[Row], *, free: bool) -> Iterator[tuple[str, Row]]:
    """Give each row its place, once it is clear that its columns can all be written."""
    known: list[str] = []
    for row in rows:
        place, names = f"{data}, line {row[0]}", [*row[1]]
        if names != known:
            for name in names:
                if name in _ANSWERS or names.count(name) > 1:
                    why = "the answers have it" if name in _ANSWERS else "it stands twice"
                    raise ValueError(f"{place}: column {name!r} cannot be kept, {why}; rename it")
            if known and not free and {*names} != {*known}:
                raise ValueError(
                    f"{place}: has the columns {names}, not those of the rows before, {known}; an "
                    "--output that ends in .jsonl takes both"
                )
            known = names
        yield place, row


def _write_delimited(file: IO[bytes], groups: Iterator[Rows], delimiter: str) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    options: Any = {"delimiter": delimiter, "lineterminator": "\n"}
    plain = csv.writer(text, **options)
    # The csv module leaves a lone carriage return bare, and then reads it as the end of a row.
    quoted = csv.writer(text, quoting=csv.QUOTE_ALL, **options)

    def write(cells: Sequence[Any]) -> None:
        (quoted if any("\r" in str(cell) for cell in cells) else plain).writerow(cells)

    names: list[str] = []
    for group in groups:
        if not names:
            names = [*group[0]]
            write(names)
        for row in map(_flat, group):
            write([row[name] for name in names])
    text.detach()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Write lists and objects in cells as JSON."""
    return {
        name: _json(cell) if isinstance(cell, dict | list) else cell for name, cell in row.items()
    }


def _json(value: Any) -> str:
    # Dates and decimals of a Parquet file are written as texts.
    return json.dumps(value, ensure_ascii=False, default=str)


def _write_json_lines(file: IO[bytes], groups: Iterator[Rows], _data: Path) -> None:
    for group in groups:
        file.writelines(f"{_json(row)}\n".encode() for row in group)


def _write_parquet(file: IO[bytes], groups: Iterator[Rows], data: Path) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter, read_schema

    fields = read_schema(data) if data.suffix.lower() == ".parquet" else []
    writer: ParquetWriter | None = None
    try:
        for group in groups:
            # An object's keys that the first rows lack would be dropped.
            rows = group if fields else [*map(_flat, group)]
            if writer is None:
                found = pyarrow.Table.from_pylist(rows[:1] if fields else rows).schema
                new = [field for field in found if field.name not in {old.name for old in fields}]
                writer = ParquetWriter(file, pyarrow.schema([*fields, *new]))
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=writer.schema))
    except (pyarrow.ArrowException, OverflowError) as error:
        raise ValueError(
            f"a column cannot be written as Parquet ({error}); its values may be of several types, "
            "so give an --output that ends in .jsonl"
        ) from error
    finally:
        if writer is not None:
            writer.close()


_WRITERS: dict[str, Callable[[IO[bytes], Iterator[Rows], Path], None]] = {
    ".csv": lambda file, groups, _: _write_delimited(file, groups, ","),
    ".tsv": lambda file, groups, _: _write_delimited(file, groups, "\t"),
    ".jsonl": _write_json_lines,
    ".parquet": _write_parquet,
}
