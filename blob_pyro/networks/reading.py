"""Reading what others wrote: whatever breaks becomes one error, which names the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from blob_pyro.settings import in_plain_words


@contextmanager
def reading(what: str | Path, way_out: str = "restore the folder from a copy") -> Iterator[None]:
    """Turn whatever a foreign file breaks into a ``ValueError`` that names it.

    For libraries, which check little: damage surfaces anywhere in them.

    Parameters
    ----------
    what
        The file, folder or model that is read.
    way_out
        What to do about it.

    Examples
    --------
    >>> with reading("a.json"):
    ...     {}["rank"]
    Traceback (most recent call last):
    ...
    ValueError: a.json cannot be used (KeyError: 'rank'); restore the folder from a copy
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    # A panic of a library in Rust is no Exception.
    except BaseException as error:
        if type(error) is ValueError and str(what) in str(error):
            raise
        if isinstance(error, ValidationError):
            reason = in_plain_words(error)
        else:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{what} cannot be used ({reason}); {way_out}") from error
