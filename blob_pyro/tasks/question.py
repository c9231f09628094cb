"""One multiple-choice question, whatever data set it comes from."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass


def letters(num_options: int) -> tuple[str, ...]:
    """Give the letters of a number of options.

    Parameters
    ----------
    num_options
        From 2 to 26.

    Returns
    -------
    tuple of str
        ``"A"``, ``"B"``, ...

    Raises
    ------
    ValueError
        If there are more options than letters.

    Examples
    --------
    >>> letters(3)
    ('A', 'B', 'C')
    """
    if num_options > len(string.ascii_uppercase):
        raise ValueError(
            f"{num_options} options are more than the {len(string.ascii_uppercase)} letters; use a "
            "network with a classification head, which needs no name for a class"
        )
    return tuple(string.ascii_uppercase[:num_options])


def listed(options: Sequence[str]) -> str:
    r"""List options, one a line behind its letter.

    Examples
    --------
    >>> print(listed(["login", "printing"]))
    A. login
    B. printing
    """
    return "\n".join(
        f"{letter}. {option}" for letter, option in zip(letters(len(options)), options, strict=True)
    )


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
