"""Ctrl-C and SIGTERM as a request that the training loop answers between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterruptedError(Exception):
    """Training stopped because a signal asked it to, and everything is saved.

    Parameters
    ----------
    message
        Says where to go on from.
    signal_number
        The signal.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class Interruption:
    """Notes SIGINT and SIGTERM while it is entered; a second Ctrl-C stops at once.

    Attributes
    ----------
    signal_number
        The first signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        # Only the main thread may set handlers; elsewhere signals do what they did.
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == self.signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        # A launcher that got Ctrl-C too sends SIGTERM after it: that is no second request.
        self.signal_number = self.signal_number or number
