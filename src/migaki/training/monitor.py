"""What a person sees while the loop runs: a live line on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TextIO

from migaki.core.units import bytes_text, seconds_text

__all__ = [
    "LiveMonitor",
    "Monitor",
    "PlainMonitor",
    "allocated_bytes",
    "forget_peak",
    "monitor_for",
    "peak_bytes",
    "present_bytes",
]


def peak_bytes() -> int:
    """Largest resident memory of this process since it began, or since `forget_peak`."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def present_bytes() -> int:
    """Memory of this process now; where the system does not tell, the most it has had."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError):
        return peak_bytes()
    return pages * os.sysconf("SC_PAGE_SIZE")


class _Mallinfo(ctypes.Structure):
    """What glibc's `mallinfo2` answers (2.33 and later); `malloc.h` explains the names."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def allocated_bytes() -> int:
    """What this process has asked for and not given back, by its main thread or in large pieces; 0 where the system does not
    tell (it takes glibc). Unlike resident memory it does not hide what was put into a place that was free."""
    asked = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform == "linux" else None
    if asked is None:
        return 0
    asked.restype = _Mallinfo
    found = asked()
    return int(found.uordblks + found.hblkhd)


def forget_peak() -> None:
    """Count the largest memory anew from here, where the system can (Linux); elsewhere it stays that of the process."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class Monitor:
    """Watches in silence; the others say something."""

    def note(self, text: str) -> None:
        """One line about what is being done or was found."""

    def start(self, total_steps: int, done: int) -> None:
        """The loop begins, `done` steps being already behind it."""

    def step(self, facts: Mapping[str, Any]) -> None:
        """One optimiser step; `facts` is its line in history.jsonl."""

    def evaluation(self, facts: Mapping[str, Any]) -> None:
        """One evaluation; `facts` is its line in history.jsonl."""

    def stop(self) -> None:
        """The loop ended, well or not."""


def _speed_text(facts: Mapping[str, Any]) -> str:
    """In tokens, or in rows where these have none, as images."""
    seconds = max(facts["seconds"], 1e-9)
    return f"{facts['tokens'] / seconds:.0f} tokens/s" if facts["tokens"] else f"{facts['rows'] / seconds:.1f} rows/s"


def _evaluation_text(facts: Mapping[str, Any]) -> str:
    scores = "  ".join(f"{name} {value:.4f}" for name, value in facts["metrics"].items())
    return f"validation at step {facts['step']} (epoch {facts['epoch']:.2f}): {scores}{'  best so far' if facts['best'] else ''}"


class PlainMonitor(Monitor):
    """A line every few seconds, without colours or cursor movement."""

    def __init__(self, stream: TextIO | None = None, every_s: float = 5.0) -> None:
        self._stream = stream or sys.stderr
        self._every_s = every_s
        self._total, self._done, self._since, self._last = 0, 0, 0.0, 0.0

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def start(self, total_steps: int, done: int) -> None:
        self._total, self._done, self._since, self._last = total_steps, done, time.monotonic(), 0.0

    def step(self, facts: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if now - self._last >= self._every_s or facts["step"] == self._total:
            self._last = now
            rate = (facts["step"] - self._done) / max(now - self._since, 1e-9)
            left_s = (self._total - facts["step"]) / max(rate, 1e-9)
            self.note(
                f"step {facts['step']}/{self._total}  loss {facts['loss']:.4f}  rate {facts['learning_rate']:.2e}  "
                f"{_speed_text(facts)}  {bytes_text(peak_bytes())}  {seconds_text(left_s)} left"
            )

    def evaluation(self, facts: Mapping[str, Any]) -> None:
        self.note(_evaluation_text(facts))


class LiveMonitor(Monitor):
    """One line that moves, and the evaluations above it."""

    def __init__(self) -> None:
        from rich.console import Console

        # Rich would draw the `:100:` of `train.csv:100: no label` as an emoji.
        self._console = Console(stderr=True, highlight=False, emoji=False)
        self._progress: Any = None
        self._task: Any = None

    def note(self, text: str) -> None:
        (self._progress.console if self._progress else self._console).print(text, markup=False)

    def start(self, total_steps: int, done: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._progress.add_task("", total=total_steps, completed=done, facts="")
        self._progress.start()

    def step(self, facts: Mapping[str, Any]) -> None:
        text = f"loss {facts['loss']:.4f}  {_speed_text(facts)}  {bytes_text(peak_bytes())}"
        self._progress.update(self._task, completed=facts["step"], facts=text)

    def evaluation(self, facts: Mapping[str, Any]) -> None:
        self.note(_evaluation_text(facts))

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def monitor_for(stream: TextIO | None = None) -> Monitor:
    """Live on a terminal, plain elsewhere."""
    return LiveMonitor() if (stream or sys.stderr).isatty() else PlainMonitor(stream)
