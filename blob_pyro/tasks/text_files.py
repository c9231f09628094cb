"""Tables in files, read strictly and row by row: what may be misread is refused."""

import csv
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

_DELIMITERS = ",;\t"
# Line, names of the columns, and the cells, which may be more or fewer.
Row = tuple[int, Sequence[str], Sequence[Any]]


def text_lines(path: Path) -> Iterator[str]:
    """Read a file of UTF-8 text, with or without a byte-order mark, a line at a time.

    Raises
    ------
    ValueError
        If it cannot be read, or is not such text, with file, line and reason.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> _ = path.write_bytes("no toner".encode("utf-16"))
    >>> next(text_lines(path))
    Traceback (most recent call last):
    ...
    ValueError: ...a.txt, line 1: is not UTF-8 text (invalid start byte); save the file as UTF-8
    """
    _check_regular(path)
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            for number, line in enumerate(file, start=1):
                reason = "a zero byte, as in UTF-16" if "\0" in line else ""
                try:
                    line.encode(errors="surrogateescape").decode()
                except UnicodeDecodeError as error:
                    reason = error.reason
                if reason:
                    raise ValueError(
                        f"{path}, line {number}: is not UTF-8 text ({reason}); save the file as "
                        "UTF-8"
                    )
                yield line
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error


def _check_regular(path: Path) -> None:
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path}: is not a regular file, and reading it could wait for ever")


def table_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Read a table row by row, so that it may be of any size.

    Parameters
    ----------
    path
        ``.csv`` or ``.tsv`` (with a header; commas, semicolons or tabs), ``.jsonl`` or ``.json``
        (one object a line), UTF-8; or ``.parquet``.
    columns
        Names that a header has to have once.

    Yields
    ------
    place, names, cells
        Line on which the row begins (its number, for Parquet), from 1; the names of its columns,
        and its cells, which in a CSV file may be more or fewer.

    Raises
    ------
    ValueError
        If the file cannot be read as such a table, with file, line and reason.
    """
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".json"):
        yield from ((line, [*row], [*row.values()]) for line, row in json_lines(path))
        return
    if suffix in (".csv", ".tsv"):
        names, rows = csv_rows(path, columns)
    elif suffix == ".parquet":
        names, rows = _parquet_rows(path)
    else:
        raise ValueError(
            f"{path}: the ending {suffix!r} is unknown; give a .csv, .tsv, .jsonl or .parquet file"
        )
    # The header is that of all rows: skipping one mends nothing. An empty file has none.
    for column in columns if names else ():
        check_column(f"{path}: ", names, column)
        if names.count(column) > 1:
            raise ValueError(f"{path}: the column {column!r} is twice in the header")
    yield from ((line, names, cells) for line, cells in rows)


def text_cell(row: Row, column: str) -> str:
    """Give the text of a column, without the space around it, or say why there is none.

    Examples
    --------
    >>> text_cell((2, ["text", "n"], [" no toner", "3"]), "text")
    'no toner'
    """
    _, names, cells = row
    if len(cells) != len(names):
        raise ValueError(
            f"has {len(cells)} cells, but the header has {len(names)}; quote a text with delimiters"
        )
    check_column("", names, column)
    value = cells[names.index(column)]
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise ValueError(f"column {column!r} is {value!r}; a text or whole number is needed")
    return str(value).strip()


def check_column(place: str, names: Sequence[str], column: str) -> None:
    """Raise a ``ValueError`` unless a column is among the names."""
    if column not in names:
        raise ValueError(
            f"{place}has no column {column!r} but {[*names]}; name the columns by text_column "
            "and label_column (--text-column, --label-column)"
        )


def _parquet_rows(path: Path) -> tuple[list[str], Iterator[tuple[int, list[Any]]]]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    _check_regular(path)
    try:
        file = ParquetFile(path)
    except (OSError, ArrowException) as error:
        raise ValueError(f"{path}: cannot be read as Parquet ({error})") from error
    names = list(file.schema_arrow.names)

    def rows() -> Iterator[tuple[int, list[Any]]]:
        number = 0
        with file:
            try:
                for batch in file.iter_batches(batch_size=1024):
                    for cells in zip(*(column.to_pylist() for column in batch), strict=True):
                        number += 1
                        yield number, [*cells]
            except (OSError, ArrowException) as error:
                raise ValueError(f"{path}: cannot be read after row {number} ({error})") from error

    return names, rows()


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read one JSON object a line, blank lines left out.

    Parameters
    ----------
    path
        UTF-8 text, with or without a byte-order mark.

    Yields
    ------
    line, row
        Number of the line, from 1, and the object.

    Raises
    ------
    ValueError
        If the file is not UTF-8 text, or a line is not a JSON object, with file, line and reason.
    """
    for line, text in enumerate(text_lines(path), start=1):
        if text.strip():
            yield line, json_row(str(path), line, text)


def json_row(place: str, line: int, text: str) -> dict[str, Any]:
    """Read one line that shall be a JSON object, or raise a ``ValueError`` that says where it is.

    Examples
    --------
    >>> json_row("a.jsonl", 1, '{"text": "no toner"}')
    {'text': 'no toner'}
    """
    try:
        row = json.loads(text, object_pairs_hook=_without_repeats)
        # JSON can name halves of characters, which no UTF-8 file can hold.
        json.dumps(row, ensure_ascii=False).encode()
        if not isinstance(row, dict):
            raise TypeError(f"a {type(row).__name__}")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{place}, line {line}: is not a JSON object ({getattr(error, 'msg', error)}); give "
            "one a line, and no list around them"
        ) from error
    return row


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if repeated:
        raise ValueError(f"the key {repeated[0]!r} is twice in one object; leave one out")
    return dict(pairs)


def csv_rows(
    path: Path, columns: Sequence[str]
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    r"""Read the header and the rows of a CSV file, blank lines left out.

    Parameters
    ----------
    path
        UTF-8 text.  Commas, semicolons or tabs divide the cells: whichever give the header the
        columns that are looked for.
    columns
        Names that the header should have.

    Returns
    -------
    names
        The header; empty if the file is.
    rows
        Line on which each row begins, from 1, and its cells, as many as there are.

    Raises
    ------
    ValueError
        If the quotes do not fit, or a cell is longer than the ``csv`` module reads, with file, line
        and reason; while the rows are read, too.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = path.write_text('text;label\n"two\nlines";login\nno toner;printing\n')
    >>> names, rows = csv_rows(path, ["text", "label"])
    >>> names, [*rows]
    (['text', 'label'], [(2, ['two\nlines', 'login']), (4, ['no toner', 'printing'])])
    """
    known = "\t" if path.suffix.lower() == ".tsv" else _DELIMITERS
    headers = {each: _header(path, each) for each in known}
    # If none has the columns, the one that divides the header shows their names.
    delimiter = max(known, key=lambda each: ({*columns} <= {*headers[each]}, len(headers[each])))
    rows = _rows(path, delimiter)
    return next(rows, (0, []))[1], rows


def is_like_row(line: str, class_names: Collection[str]) -> bool:
    """Tell whether a line looks like a row of a CSV file: its first or last cell is a class.

    Examples
    --------
    >>> is_like_row("no toner,printing", ["login", "printing"])
    True
    """
    cells = [cell.strip(' "\r') for cell in re.split(f"[{_DELIMITERS}]", line)]
    return len(cells) > 1 and (cells[0] in class_names or cells[-1] in class_names)


def is_like_header(line: str) -> bool:
    """Tell whether a line looks like the header of a CSV file: several names, and nothing else.

    Examples
    --------
    >>> is_like_header("id,text,label"), is_like_header("no toner, again")
    (True, False)
    """
    cells = [cell.strip('"') for cell in re.split(f"[{_DELIMITERS}]", line)]
    return len(cells) > 1 and all(cell.isidentifier() for cell in cells)


def _header(path: Path, delimiter: str) -> list[str]:
    try:
        return next(_rows(path, delimiter), (0, []))[1]
    except ValueError:
        return []


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(text_lines(path), delimiter=delimiter, strict=True)
    width = 0
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f"{path}, line {line}: the row that begins here cannot be read ({error}); close "
                "its quotes, and double those inside a quoted cell"
            ) from error
        if not cells:
            continue
        width = width or len(cells)
        if len(cells) != width and reader.line_num > line:
            # Nothing that is skipped by itself: it may have swallowed sound rows.
            raise ValueError(
                f"{path}, line {line}: the row that begins here goes on to line {reader.line_num} "
                f"and has {len(cells)} cells, but the header has {width}; close its quotes"
            )
        yield line, cells
