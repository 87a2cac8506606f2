"""Every check, in the order in which its finding is shown."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from migaki.core.cache import cache_folder
from migaki.doctor import accelerators, libraries, machine
from migaki.doctor.check import Check

__all__ = ["examine"]


def examine(runs: Path = Path("runs"), hub: bool = True, speed: bool = True) -> list[Check]:
    """Every check in order; none raises: one that cannot look says so.

    Args:
        runs: where runs will lie, to look at its disk.
        hub: whether to ask the model hub, which takes up to four seconds where there is no way out.
        speed: whether to measure disks, processor and accelerators, about two seconds.
    """
    return list(_all(runs, hub, speed))


def _all(runs: Path, hub: bool, speed: bool) -> Iterator[Check]:
    yield libraries.python()
    yield from libraries.packages()
    yield machine.processor()
    yield from machine.threads(os.environ)
    yield machine.memory()
    yield machine.clock(time.time(), Path(__file__).stat().st_mtime)
    for name, folder in (("disk of the runs", runs), ("disk of the cache", cache_folder())):
        yield machine.disk(name, folder, speed)
    yield from libraries.torch_and_devices(speed)
    yield from accelerators.tpu()
    yield from libraries.vision()
    yield libraries.sounds()
    yield machine.text_encoding()
    yield machine.fonts()
    yield from machine.limits()
    if hub:
        yield from machine.hub(os.environ)
