"""Names of classes: their order, their letters, and whether any two could be meant for one."""

from __future__ import annotations

import re
import string
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Order class names: by number where all are whole numbers, else by the alphabet.

    Examples
    --------
    >>> class_order(["10", "9", "9"])
    ('9', '10')
    """
    unique = set(names)
    return tuple(sorted(unique, key=int if _are_numbers(unique) else None))


def class_values(names: Sequence[str]) -> npt.NDArray[Any]:
    """Give class names as users know them: as integers where all are whole numbers.

    Examples
    --------
    >>> class_values(["0", "1"])
    array([0, 1])
    """
    import numpy as np

    if not _are_numbers(names):
        return np.asarray(list(names))
    values = np.asarray(numbers := [int(name) for name in names])
    # Numbers beyond int64 would be rounded.
    return values if values.dtype.kind == "i" else np.asarray(numbers, dtype=object)


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
            f"{num_options} options are more than the 26 letters; use a classification head"
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
    named = zip(letters(len(options)), options, strict=True)
    return "\n".join(f"{letter}. {option}" for letter, option in named)


def warn_of_lookalikes(names: Iterable[str]) -> None:
    """Warn of classes that differ by case, width, spaces or invisible characters alone.

    Examples
    --------
    >>> with warnings.catch_warnings(record=True, action="always") as caught:
    ...     warn_of_lookalikes(["login", "Login", "printing"])
    >>> print(caught[0].message)
    the classes 'login' and 'Login' look alike; if they are one class, write them alike
    """
    seen: dict[str, str] = {}
    for name in names:
        folded = unicodedata.normalize("NFKC", name).casefold()
        visible = "".join(c for c in folded if unicodedata.category(c) not in ("Cf", "Cc"))
        other = seen.setdefault(re.sub(r"\s+", " ", visible).strip(), name)
        if other != name:
            alike = f"the classes {other!a} and {name!a} look alike"
            warnings.warn(f"{alike}; if they are one class, write them alike", stacklevel=3)


def _are_numbers(names: Iterable[str]) -> bool:
    # "01" is a name: as a number it would no longer be the label that the user wrote.
    return all(name.removeprefix("-").isdecimal() and str(int(name)) == name for name in names)
