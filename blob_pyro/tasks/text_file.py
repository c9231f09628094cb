"""A file of text, whole."""

from __future__ import annotations

import re
from pathlib import Path


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
