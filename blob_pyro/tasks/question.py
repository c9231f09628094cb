"""One multiple-choice question, whatever data set it comes from."""

from __future__ import annotations

from dataclasses import dataclass


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
