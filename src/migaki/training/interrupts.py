"""SIGTERM and Ctrl-C: the first one ends the work where it can go on later, the second one ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from migaki.core.errors import StoppedError

__all__ = ["Interrupts"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupts:
    """Within `with`, a signal is remembered until the work asks for it with `check`.

    Only the main thread can watch for signals; elsewhere this does nothing and the process keeps its own ways.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if self._asked is not None:
            # What is on disk is consistent at any moment, so there is nothing to wait for.
            os._exit(128 + number)
        self._asked = number

    def check(self, *_: object) -> None:
        """Raises StoppedError where a signal has come; takes any arguments, so it can serve as a `watch`."""
        if self._asked is not None:
            raise StoppedError(self._asked)
