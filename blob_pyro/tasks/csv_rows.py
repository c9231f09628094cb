"""A CSV file, read strictly: what cannot be told apart for sure is refused."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from blob_pyro.tasks.text_file import read_text

_DELIMITERS = ",;\t"


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
