"""Multiple-choice tasks: where their questions come from, and reading them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset

from blob_pyro.tasks.json_lines import json_lines
from blob_pyro.tasks.question import Question

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Questions:
    """What was read of a split.

    Parameters
    ----------
    data
        Columns ``id``, ``prompt``, ``options`` (list of strings) and ``label`` (int64).
    num_rows
        Rows that the split has.
    num_bad
        Rows that were skipped because they are no question.
    """

    data: Dataset
    num_rows: int
    num_bad: int

    def __str__(self) -> str:
        skipped = f", {self.num_bad} bad ones skipped" if self.num_bad else ""
        return f"{len(self.data)} of {self.num_rows} rows{skipped}"


@dataclass(frozen=True)
class MultipleChoiceTask:
    """A data set of questions with options.

    Parameters
    ----------
    name
        Name on the command line and in results.
    path
        Data set on the Hub, ``organisation/name``.
    config
        Its configuration.
    num_options
        Most options of a question.
    parse
        Makes a :class:`Question` from a row, or raises ``KeyError``, ``TypeError`` or
        ``ValueError``.
    splits
        Our name of a split (``train``, ``validation``, ``test``) to the data set's own.

    Examples
    --------
    >>> from blob_pyro.tasks import TASKS
    >>> TASKS["openbookqa"].path
    'allenai/openbookqa'
    """

    name: str
    path: str
    config: str
    num_options: int
    parse: Callable[[Row], Question]
    splits: Mapping[str, str]

    def load(
        self,
        split: str,
        *,
        data_dir: str | Path | None = None,
        limit: int | None = None,
        seed: int = 0,
        skip_bad_rows: bool = False,
    ) -> Questions:
        """Read the questions of a split.

        Parameters
        ----------
        split
            ``"train"``, ``"validation"`` or ``"test"``.
        data_dir
            Folder that holds ``name/config/split.jsonl`` with the columns of the Hub's data set
            (``name`` without the organisation); None reads the Hub.
        limit
            Take this many questions at random; None takes all, in their order.
        seed
            Seed of that choice.
        skip_bad_rows
            Leave out rows that are no question, and count them.

        Returns
        -------
        Questions
            Equal ids get ``#2``, ``#3`` ... appended.

        Raises
        ------
        ValueError
            If the task has no such split, a file is absent, a row is bad (with file, line and
            reason), or there are fewer questions than ``limit``.
        """
        questions, num_bad = [], 0
        for place, row in self._rows(split, data_dir):
            try:
                questions.append(self.parse(row))
            except (KeyError, TypeError, ValueError) as error:
                if not skip_bad_rows:
                    reason = f"has no {error}" if isinstance(error, KeyError) else error
                    raise ValueError(
                        f"{place}: {reason}; mend the row, or leave it out with --skip-bad-rows"
                    ) from error
                num_bad += 1
        data = _table(questions)
        if limit is not None:
            data = self._sample(data, split, limit, seed)
        return Questions(data, len(questions) + num_bad, num_bad)

    def has(self, split: str, data_dir: str | Path | None = None) -> bool:
        """Tell whether a split has answers and, with ``data_dir``, is there."""
        return split in self.splits and (data_dir is None or self._file(split, data_dir).is_file())

    def _file(self, split: str, data_dir: str | Path) -> Path:
        name = f"{self.splits[split]}.jsonl"
        return Path(data_dir) / self.path.rpartition("/")[2] / self.config / name

    def _sample(self, data: Dataset, split: str, limit: int, seed: int) -> Dataset:
        if not 1 <= limit <= len(data):
            raise ValueError(
                f"{self.name}: {limit} questions were asked for, but the split {split!r} has "
                f"{len(data)}"
            )
        return data.shuffle(seed=seed).select(range(limit))

    def _rows(self, split: str, data_dir: str | Path | None) -> Iterator[tuple[str, Row]]:
        if split not in self.splits:
            raise ValueError(
                f"{self.name} has no split {split!r} with answers but {sorted(self.splits)}"
            )
        if data_dir is None:
            theirs = self.splits[split]
            place = f"{self.path}/{self.config}/{theirs}"
            rows = load_dataset(self.path, self.config, split=theirs)
            yield from ((f"{place}, row {index}", row) for index, row in enumerate(rows))
            return
        file = self._file(split, data_dir)
        if not file.is_file():
            raise ValueError(
                f"{file}: is not there; give a folder with {self.name}'s rows as JSON lines, or "
                "leave --data-dir out to read the Hub"
            )
        yield from ((f"{file}, line {line}", row) for line, row in json_lines(file))


def _table(questions: list[Question]) -> Dataset:
    return Dataset.from_dict(
        {
            "id": _unique([question.id for question in questions]),
            "prompt": [question.prompt for question in questions],
            "options": [list(question.options) for question in questions],
            "label": [question.label for question in questions],
        }
    )


def _unique(ids: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    unique = []
    for name in ids:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return unique
