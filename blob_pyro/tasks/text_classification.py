"""What a text-classification task consists of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from typing_extensions import override

from blob_pyro.tasks.class_names import letters, listed, warn_of_lookalikes
from blob_pyro.tasks.source import LabelledText, Row, TextSource
from blob_pyro.tasks.task_data import DataTask, check_labels

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class TextClassificationTask(DataTask):
    r"""Texts (or pairs of texts), labels and the names of the classes.

    Parameters
    ----------
    name
        Name of the task, recorded in saved posteriors.
    splits
        Data sets by split with the columns ``text`` (string), ``label`` (class index, int64;
        -1 where no class is right, as in ``out_of_scope``) and, if you like, ``id`` and
        ``text_pair`` (strings).
    class_names
        Names in the order of the class indices.
    prompt
        Prompt of a causal LM, with the field ``{text}`` (and ``{text_pair}``); the model's next
        token is the class.  A network with a classification head reads the texts alone.
    words
        Words by which a causal LM names the classes, where they are not ``class_names``.
    source
        Where splits that are not in ``splits`` are read from.
    num_bad
        Rows of its file that were left out.

    Raises
    ------
    ValueError
        If there are fewer than two classes, not a word for each, or the prompt lacks a field.

    Examples
    --------
    >>> from datasets import Dataset, DatasetDict
    >>> train = Dataset.from_dict({"text": ["no toner"], "label": [1]})
    >>> task = TextClassificationTask("tickets", DatasetDict(train=train), ("login", "printing"))
    >>> task.prompts(["no toner"])
    ['no toner\n\nThis message is about']
    """

    name: str
    splits: Mapping[str, Dataset]
    class_names: tuple[str, ...]
    prompt: str = "{text}\n\nThis message is about"
    words: tuple[str, ...] = ()
    source: TextSource | None = None
    num_bad: int = 0

    def __post_init__(self) -> None:
        if not 2 <= len(self.class_names) == len({*self.class_names}):
            raise ValueError(
                f"task {self.name!r} has the classes {list(self.class_names)}; classification "
                "needs at least two different labels"
            )
        warn_of_lookalikes(self.class_names)
        if self.words and len(self.words) != len(self.class_names):
            raise ValueError(
                f"task {self.name!r} has {len(self.words)} words, {len(self.class_names)} classes"
            )
        if "{text}" not in self.prompt:
            raise ValueError(f"prompt {self.prompt!r} has no field {{text}}; put it in")
        pairs = [name for name, rows in self.splits.items() if "text_pair" in rows.column_names]
        if pairs and not self.reads_pairs:
            raise ValueError(
                f"prompt {self.prompt!r} has no field {{text_pair}}, which the splits {pairs} have "
                "as a column; put it in, or leave out the column"
            )

    @property
    def answers(self) -> tuple[str, ...]:
        """What a causal LM answers, in the order of the classes."""
        return self.words or self.class_names

    @property
    def reads_pairs(self) -> bool:
        """Whether the examples are pairs of texts."""
        of_source = self.source is not None and self.source.text_pair is not None
        return of_source or "{text_pair}" in self.prompt

    def prompts(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[str]:
        """Fill the prompt with each text (which may itself hold braces) and its pair."""
        both = zip(texts, pairs or [""] * len(texts), strict=True)
        return [_filled(self.prompt, text, pair) for text, pair in both]

    def lettered(self) -> TextClassificationTask:
        r"""Ask by letter: the prompt lists the classes, and the model's next token is a letter.

        The way to use class names that are several tokens long.

        Examples
        --------
        >>> task = TextClassificationTask("t", {}, ("cannot log in", "paper jam"))
        >>> print(task.lettered().prompts(["no toner"])[0])
        no toner
        <BLANKLINE>
        This message is about
        A. cannot log in
        B. paper jam
        Answer:
        """
        asked = self.prompt.removesuffix("Answer:").rstrip()
        prompt = f"{asked}\n{listed(self.class_names)}\nAnswer:"
        return replace(self, prompt=prompt, words=letters(len(self.class_names)))

    def check(self, data: Dataset) -> None:
        """Raise a ``ValueError`` unless every example has a label that is one of the classes."""
        check_labels(data, self.class_names)

    @override
    def _example(self, row: Row) -> LabelledText:
        assert self.source is not None
        return self.source.parse(row, len(self.class_names))


def _filled(prompt: str, text: str, pair: str) -> str:
    # Piece by piece, since a text may itself hold the other one's field.
    return pair.join(piece.replace("{text}", text) for piece in prompt.split("{text_pair}"))
