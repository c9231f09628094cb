"""Files of text, JSON lines or CSV, read strictly: what may be misread is refused."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

_DELIMITERS = ",;\t"


def read_text(path: Path) -> str:
    """Read a file of UTF-8 text, with or without a byte-order mark.

    Raises
    ------
    ValueError
        If it cannot be read, or is not such text, with file, line and reason.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> _ = path.write_bytes("no toner".encode("utf-16"))
    >>> read_text(path).replace(str(path.parent), "...")
    Traceback (most recent call last):
    ...
    ValueError: ...a.txt, line 1: is not UTF-8 text (invalid start byte); save the file as UTF-8
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path}: is no regular file, and reading it could wait for ever")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        before, reason = error.object[: error.start].decode(errors="replace"), error.reason
    else:
        before, zero, _ = text.partition("\0")
        if not zero:
            return text
        reason = "a zero byte, as in UTF-16"
    line = len(re.findall("\r\n|\r|\n", before)) + 1
    raise ValueError(f"{path}, line {line}: is not UTF-8 text ({reason}); save the file as UTF-8")


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
    for line, text in enumerate(io.StringIO(read_text(path), newline=None), start=1):
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
        raise ValueError(f"the key {repeated[0]!r} stands twice in one object; leave one out")
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
    text = read_text(path)
    delimiter = next(
        (known for known in _DELIMITERS if {*columns} <= {*_header(path, text, known)}), ","
    )
    rows = _rows(path, text, delimiter)
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


def _header(path: Path, text: str, delimiter: str) -> list[str]:
    try:
        return next(_rows(path, text, delimiter), (0, []))[1]
    except ValueError:
        return []


def _rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
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
