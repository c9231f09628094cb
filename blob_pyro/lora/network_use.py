"""Who runs a network: one model's call at a time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class NetworkUse:
    """The state that all latent projections of one network share.

    A draw that a model installed holds for that model's call, in its thread, and for the backward
    pass that follows.  Any other call of the network is a bare one.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._owner: int | None = None
        # Whether a model stands over the network: then a bare call is no sample statement.
        self.has_model = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the network with the draws that are installed meanwhile; other threads wait."""
        with self._lock:
            before, self._owner = self._owner, threading.get_ident()
            try:
                yield
            finally:
                self._owner = before

    @property
    def is_bare(self) -> bool:
        """Whether the network is called by somebody else than the model that drew."""
        if torch.compiler.is_compiling():
            return False
        # Gradient checkpointing runs layers again, on a GPU in a thread of autograd's.
        in_backward = torch._C._current_graph_task_id() != -1
        return self._owner != threading.get_ident() and not in_backward

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies of a network share one of their own.
        return NetworkUse, (), {"has_model": self.has_model}
