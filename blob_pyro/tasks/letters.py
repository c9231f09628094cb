"""Options by letter: the list in a prompt, and the letters that may answer it."""

from __future__ import annotations

import string
from collections.abc import Sequence


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
