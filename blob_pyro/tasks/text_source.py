"""Rows of one text or a pair of texts with a class number, as GLUE and SuperGLUE have them."""

from __future__ import annotations

from dataclasses import dataclass

from blob_pyro.tasks.source import Row, Source


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
    >>> from blob_pyro.tasks.source import ANSWERED
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
            If a text is empty or the label is no class.
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
