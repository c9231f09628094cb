"""Where the rows of a data set come from: the Hub, or a folder with the same columns."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blob_pyro.tasks.text_files import json_lines

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
            raise ValueError(f"{self.path} has no split {split!r} but {sorted(self.splits)}")
        return self.splits[split]


@dataclass(frozen=True)
class LabelledText:
    """One text, or a pair of texts, and its class.

    Parameters
    ----------
    id
        Name of the example, from its data set.
    text
        The text, or the first one of the pair.
    text_pair
        The second one; None for a single text.
    label
        Index of the class.
    """

    id: str
    text: str
    text_pair: str | None
    label: int


@dataclass(frozen=True)
class TextSource(Source):
    """Where labelled texts come from.

    Parameters
    ----------
    path, config, splits
        See :class:`Source`.
    text, text_pair
        How a row becomes the text(s): columns in braces.  ``text_pair=None`` for single texts.

    Examples
    --------
    >>> source = TextSource("nyu-mll/glue", "cola", ANSWERED, text="{sentence}")
    >>> source.parse({"sentence": "Cats purr.", "label": 1, "idx": 7}, num_classes=2)
    LabelledText(id='7', text='Cats purr.', text_pair=None, label=1)
    """

    text: str = "{text}"
    text_pair: str | None = None

    def parse(self, row: Row, num_classes: int) -> LabelledText:
        """Make the example of a row.

        Parameters
        ----------
        row
            The data set's columns, ``label`` among them and, if it has it, ``idx``.
        num_classes
            How many classes there are.

        Returns
        -------
        LabelledText
            Without ``idx`` its text is its id.

        Raises
        ------
        KeyError
            If a column is absent.
        ValueError
            If a text is empty or the label is not a class.
        """
        text = self._filled(self.text, row)
        pair = None if self.text_pair is None else self._filled(self.text_pair, row)
        label = row["label"]
        if type(label) is not int or not 0 <= label < num_classes:
            raise ValueError(
                f"has the label {label!r}; a whole number from 0 to {num_classes - 1} is needed"
            )
        return LabelledText(str(row.get("idx", text)), text, pair, label)

    @staticmethod
    def _filled(template: str, row: Row) -> str:
        text = template.format_map(_OnlyTexts(row)).strip()
        if not text:
            raise ValueError(f"has an empty text where {template!r} is needed")
        return text


class _OnlyTexts(dict[str, str]):
    """Columns that a template may name: None or a number is no text."""

    def __getitem__(self, column: str) -> str:
        value = super().__getitem__(column)
        if not isinstance(value, str):
            raise TypeError(f"has {value!r} in the column {column!r}, where a text is needed")
        return value
