"""Texts that come through a pipe: one a line, answered in groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, Any

from blob_pyro.tasks import TextClassificationTask
from blob_pyro.tasks.json_lines import json_row

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


def reads_pairs(task: TextClassificationTask) -> bool:
    """Tell whether the examples of a task are pairs of texts."""
    source_pairs = task.source is not None and task.source.text_pair is not None
    return source_pairs or "{text_pair}" in task.prompt


def _example(row: dict[str, Any], task: TextClassificationTask, place: str) -> Example:
    names = ("text", "text_pair") if reads_pairs(task) else ("text",)
    for name in names:
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise ValueError(
                f"{place}: {name!r} is {row.get(name)!r}; {task.name} needs a text there"
            )
    return {name: row[name] for name in (*names, "id") if name in row}
