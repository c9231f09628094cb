"""What a text-classification task consists of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from blob_pyro.tasks.class_names import warn_of_lookalikes
from blob_pyro.tasks.labels import check_labels
from blob_pyro.tasks.question import letters, listed
from blob_pyro.tasks.task_data import TaskData, read_examples, unique_ids
from blob_pyro.tasks.text_source import LabelledText, TextSource

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class TextClassificationTask:
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
        If there are fewer than two classes, not a word for each, or the prompt has no ``{text}``.

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
        if len(self.class_names) < 2:
            raise ValueError(
                f"task {self.name!r} has the classes {list(self.class_names)}; classification "
                "needs at least two different labels"
            )
        if len(set(self.class_names)) < len(self.class_names):
            raise ValueError(f"task {self.name!r} names a class twice: {list(self.class_names)}")
        warn_of_lookalikes(self.class_names)
        if self.words and len(self.words) != len(self.class_names):
            raise ValueError(
                f"task {self.name!r} has {len(self.words)} words for {len(self.class_names)} "
                "classes; give one each, or none to use class_names"
            )
        if "{text}" not in self.prompt:
            raise ValueError(
                f"prompt {self.prompt!r} has no field {{text}}; put it where the message belongs"
            )

    @property
    def answers(self) -> tuple[str, ...]:
        """What a causal LM answers, in the order of the classes."""
        return self.words or self.class_names

    def prompts(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[str]:
        """Fill the prompt with each text (which may itself hold braces) and its pair."""
        return [
            _filled(self.prompt, text, pair)
            for text, pair in zip(texts, pairs or [""] * len(texts), strict=True)
        ]

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
        return replace(
            self,
            prompt=f"{self.prompt.removesuffix('Answer:').rstrip()}\n{listed(self.class_names)}\n"
            "Answer:",
            words=letters(len(self.class_names)),
        )

    def check(self, data: Dataset) -> None:
        """Raise a ``ValueError`` unless every example has a label that is one of the classes."""
        check_labels(data, self.class_names)

    def has_validation(self, data_dir: str | Path | None = None) -> bool:
        """Tell whether there is a validation split beside the one that is tested on."""
        if self.source is None:
            return "validation" in self.splits
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
        """Read the examples of a split.

        Parameters
        ----------
        split
            One of ``splits``, or of the source.
        data_dir
            Folder of local data, see :meth:`Source.rows`; None reads the Hub.
        limit
            Take this many examples at random; None takes all, in their order.
        seed
            Seed of that choice.
        skip_bad_rows
            Leave out rows of the source that are no example, and count them.

        Returns
        -------
        TaskData
            Columns ``id``, ``text``, ``label`` and, for pairs, ``text_pair``.

        Raises
        ------
        ValueError
            If the task has no such split, a file is absent, a row is bad (with file, line and
            reason), or there are fewer examples than ``limit``.
        """
        if split in self.splits:
            examples = TaskData.in_memory(self.splits[split])
        elif self.source is None:
            raise ValueError(f"{self.name} has no split {split!r} but {sorted(self.splits)}")
        else:
            examples = self._read(self.source, split, data_dir, skip_bad_rows)
        return examples.sample(limit, seed, f"{self.name}, {split}")

    def _read(
        self, source: TextSource, split: str, data_dir: str | Path | None, skip_bad_rows: bool
    ) -> TaskData:
        num_classes = len(self.class_names)
        rows = source.rows(split, data_dir)
        texts, num_bad = read_examples(
            rows, lambda row: source.parse(row, num_classes), skip_bad_rows
        )
        return TaskData(_table(texts), len(texts) + num_bad, num_bad)


def _filled(prompt: str, text: str, pair: str) -> str:
    # Piece by piece, since a text may itself hold the other one's field.
    return pair.join(piece.replace("{text}", text) for piece in prompt.split("{text_pair}"))


def _table(texts: Sequence[LabelledText]) -> Dataset:
    from datasets import Dataset

    columns = {
        "id": unique_ids([example.id for example in texts]),
        "text": [example.text for example in texts],
        "label": [example.label for example in texts],
    }
    if any(example.text_pair is not None for example in texts):
        columns["text_pair"] = [example.text_pair for example in texts]
    return Dataset.from_dict(columns)
