"""Where the rows of a data set come from: the Hub, or a folder with the same columns."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blob_pyro.tasks.text_file import read_text

Row = Mapping[str, Any]

SPLITS = {split: split for split in ("train", "validation", "test")}
# Where the test split's answers are not public.
ANSWERED = {"train": "train", "validation": "validation", "test": "validation"}


@dataclass(frozen=True)
class Source:
    """A data set on the Hub, or a local copy of its rows.

    Parameters
    ----------
    path
        Data set on the Hub, ``organisation/name``.
    config
        Its configuration.
    splits
        Our name of a split (``train``, ``validation``, ``test``) to the data set's own.

    Examples
    --------
    >>> source = Source("allenai/openbookqa", "main", SPLITS)
    >>> source.file("data", "test").as_posix()
    'data/openbookqa/main/test.jsonl'
    """

    path: str
    config: str
    splits: Mapping[str, str]

    def file(self, data_dir: str | Path, split: str) -> Path:
        """Give the file of a split in a folder of local data, whether it is there or not."""
        name = self.path.rpartition("/")[2]
        return Path(data_dir) / name / self.config / f"{self._theirs(split)}.jsonl"

    def has_validation(self, data_dir: str | Path | None = None) -> bool:
        """Tell whether there is a validation split beside the one that is tested on."""
        theirs = self.splits.get("validation")
        if theirs is None or theirs == self.splits.get("test"):
            return False
        return data_dir is None or self.file(data_dir, "validation").is_file()

    def rows(self, split: str, data_dir: str | Path | None = None) -> Iterator[tuple[str, Row]]:
        """Read the rows of a split, each with the place where it stands.

        Parameters
        ----------
        split
            Our name of the split.
        data_dir
            Folder that holds ``name/config/split.jsonl`` with the columns of the Hub's data set
            (``name`` without the organisation); None reads the Hub.

        Yields
        ------
        place, row
            File and line (or data set and row), and the columns.

        Raises
        ------
        ValueError
            If there is no such split, or the file is absent or no JSON lines.
        """
        if data_dir is None:
            from datasets import load_dataset

            theirs = self._theirs(split)
            place = f"{self.path}/{self.config}/{theirs}"
            rows = load_dataset(self.path, self.config, split=theirs)
            yield from ((f"{place}, row {index}", row) for index, row in enumerate(rows))
            return
        file = self.file(data_dir, split)
        if not file.is_file():
            raise ValueError(
                f"{file}: is not there; give a folder with the rows of {self.path} as JSON lines, "
                "or leave --data-dir out to read the Hub"
            )
        yield from ((f"{file}, line {line}", row) for line, row in json_lines(file))

    def _theirs(self, split: str) -> str:
        if split not in self.splits:
            raise ValueError(
                f"{self.path} has no split {split!r} with answers but {sorted(self.splits)}"
            )
        return self.splits[split]


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


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {repeated!r} stands twice in one object; leave one out")
    return entries
