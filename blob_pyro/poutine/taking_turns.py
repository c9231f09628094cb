"""Taking turns at Pyro: its stack of handlers and torch's random state are one for the process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pyro.poutine.runtime import _PYRO_STACK

_LOCK = threading.RLock()
_RUN = threading.RLock()


@contextmanager
def taking_turns() -> Iterator[None]:
    """Keep other threads of this library from Pyro's stack and torch's random state.

    Training by :func:`blob_pyro.training.fit` takes it for a step, and drawing for the draws.

    Raises
    ------
    RuntimeError
        If the stack holds handlers of somebody else, who would change the draws.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist
    >>> with taking_turns():
    ...     value = pyro.sample("a", dist.Normal(0.0, 1.0))
    """
    with _LOCK:
        _check_stack()
        yield
        _check_stack()


@contextmanager
def in_turn() -> Iterator[None]:
    """Keep other threads away likewise, but let this one have handlers of its own.

    What sets torch's random state back, or puts a handler on Pyro's stack for a while, takes it.
    """
    with _LOCK:
        yield


@contextmanager
def one_run() -> Iterator[None]:
    """Let one thread train at a time: all of them draw from the one random state of torch."""
    with _RUN:
        yield


def _check_stack() -> None:
    if _PYRO_STACK:
        names = [type(handler).__name__ for handler in _PYRO_STACK]
        raise RuntimeError(
            f"Pyro's stack holds the handlers {names}, which would act on these draws; leave their "
            "contexts first, and train with blob_pyro.training.fit, which takes turns. If a thread "
            "died within Pyro, call pyro.poutine.runtime._PYRO_STACK.clear()"
        )
