"""JSON lines with the number of each line, for errors that say where."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line, text in enumerate(file, start=1):
                if text.strip():
                    yield line, json_row(str(path), line, text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text ({error.reason}); convert it first") from error


def json_row(place: str, line: int, text: str) -> dict[str, Any]:
    """Read one line that shall be a JSON object, or raise a ``ValueError`` that says where it is.

    Examples
    --------
    >>> json_row("a.jsonl", 1, '{"text": "no toner"}')
    {'text': 'no toner'}
    """
    try:
        row = json.loads(text)
        # JSON can name halves of characters, which no UTF-8 file can hold.
        json.dumps(row, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{place}, line {line}: is not JSON ({error.msg}); give one object a line, and no list "
            "around them"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}, line {line}: holds what cannot be read ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(
            f"{place}, line {line}: is not a JSON object; give one a line, and no list around them"
        )
    return row
