"""What a worker is given in tests; in a module of its own, since a worker looks for it by name."""

from __future__ import annotations

import os
import signal
import time

import numpy as np

from migaki.core.errors import DataError

__all__ = ["DAMAGED", "DEADLY", "LOUD", "REFUSED", "SLOW", "UNKNOWN", "modules", "squared"]

SLOW, LOUD, DAMAGED, REFUSED, UNKNOWN, DEADLY = 90, 91, 92, 93, 94, 95


class OddError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def squared(number: int) -> np.ndarray:
    """The square of a number, large enough not to fit into a pipe; of some it fails."""
    if number == SLOW:
        time.sleep(0.5)
    if number == LOUD:
        print("what a library prints")
    if number == DAMAGED:
        raise ValueError("a.png is damaged or cut off (bad header)")
    if number == REFUSED:
        raise DataError("rows.csv:93: 93 is no number. Correct it.")
    if number == UNKNOWN:
        raise OddError(1, 2)
    if number == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.full((400, 1000), float(number) ** 2)


def modules(names: str) -> list[str]:
    """Which of these modules are loaded where this is computed, after everything is imported that reads an image."""
    import sys

    import migaki.data.pixels
    import migaki.tasks.sightings  # noqa: F401

    return [name for name in names.split() if name in sys.modules]
