"""Multiple-choice tasks: where their questions come from, and reading them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from typing_extensions import override

from blob_pyro.tasks.class_names import letters
from blob_pyro.tasks.source import Row, Source
from blob_pyro.tasks.task_data import DataTask, check_labels

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Question:
    r"""A prompt, the options that may follow it, and which one is right.

    Parameters
    ----------
    id
        Name of the question, from its data set.
    prompt
        Text before the options, without a space at its end.
    options
        Texts that may follow the prompt after a space; two or more.
    lettered
        The same question for a model that answers by letter (or by one of the task's words): the
        options are listed in it.
    label
        Index of the right option.

    Raises
    ------
    ValueError
        If a text is empty, there are fewer than two options, or no option has the label's index.

    Examples
    --------
    >>> lettered = "Question: Is ice cold?\nA. yes\nB. no\nAnswer:"
    >>> Question("1", "Question: Is ice cold?\nAnswer:", ("yes", "no"), lettered, 0).options[0]
    'yes'
    """

    id: str
    prompt: str
    options: tuple[str, ...]
    lettered: str
    label: int

    def __post_init__(self) -> None:
        if len(self.options) < 2:
            raise ValueError(f"has {len(self.options)} options; a choice needs at least two")
        if not all(text.strip() for text in (self.prompt, *self.options)):
            raise ValueError(f"has an empty text among {[self.prompt, *self.options]}")
        if not 0 <= self.label < len(self.options):
            raise ValueError(f"has the label {self.label} but {len(self.options)} options")


@dataclass(frozen=True)
class MultipleChoiceTask(DataTask):
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
        Data sets by split, read from the source already, with the columns of :class:`Question`.

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

    @override
    def _example(self, row: Row) -> Question:
        return self.parse(row)
