"""Multiple-choice tasks: where their questions come from, and reading them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from blob_pyro.tasks.labels import check_labels
from blob_pyro.tasks.question import Question, letters
from blob_pyro.tasks.source import Row, Source
from blob_pyro.tasks.task_data import TaskData, read_examples, unique_ids

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class MultipleChoiceTask:
    """A data set of questions with options.

    Parameters
    ----------
    name
        Name on the command line and in results.
    source
        Where the rows come from.
    num_options
        Most options of a question.
    parse
        Makes a :class:`Question` from a row, or raises ``KeyError``, ``TypeError`` or
        ``ValueError``.
    words
        Words that answer ``Question.lettered`` in place of letters, one an option.
    splits
        Data sets by split, read from the source already, with the columns of :meth:`load`.

    Examples
    --------
    >>> from blob_pyro.tasks import TASKS
    >>> TASKS["openbookqa"].answers
    ('A', 'B', 'C', 'D')
    """

    name: str
    source: Source
    num_options: int
    parse: Callable[[Row], Question]
    words: tuple[str, ...] = ()
    splits: Mapping[str, Dataset] = field(default_factory=dict)

    @property
    def answers(self) -> tuple[str, ...]:
        """What may answer ``Question.lettered``, in the order of the options."""
        return self.words or letters(self.num_options)

    def check(self, data: Dataset) -> None:
        """Raise a ``ValueError`` unless every question has a label that is one of its options."""
        check_labels(data)

    def has_validation(self, data_dir: str | Path | None = None) -> bool:
        """Tell whether there is a validation split beside the one that is tested on."""
        return self.source.has_validation(data_dir)

    def load(
        self,
        split: str,
        *,
        data_dir: str | Path | None = None,
        limit: int | None = None,
        seed: int = 0,
        skip_bad_rows: bool = False,
    ) -> TaskData:
        """Read the questions of a split.

        Parameters
        ----------
        split
            ``"train"``, ``"validation"`` or ``"test"``.
        data_dir
            Folder of local data, see :meth:`Source.rows`; None reads the Hub.
        limit
            Take this many questions at random; None takes all, in their order.
        seed
            Seed of that choice.
        skip_bad_rows
            Leave out rows that are no question, and count them.

        Returns
        -------
        TaskData
            Columns ``id``, ``prompt``, ``options`` (list of strings), ``lettered`` and ``label``.
            Equal ids get ``#2``, ``#3`` ... appended.

        Raises
        ------
        ValueError
            If the task has no such split, a file is absent, a row is bad (with file, line and
            reason), or there are fewer questions than ``limit``.
        """
        if split in self.splits:
            examples = TaskData.in_memory(self.splits[split])
        else:
            rows = self.source.rows(split, data_dir)
            questions, num_bad = read_examples(rows, self.parse, skip_bad_rows)
            examples = TaskData(_table(questions), len(questions) + num_bad, num_bad)
        return examples.sample(limit, seed, f"{self.name}, {split}")


def _table(questions: Sequence[Question]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "id": unique_ids([question.id for question in questions]),
            "prompt": [question.prompt for question in questions],
            "options": [list(question.options) for question in questions],
            "lettered": [question.lettered for question in questions],
            "label": [question.label for question in questions],
        }
    )
