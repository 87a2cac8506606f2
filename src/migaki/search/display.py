"""What a person sees while a search runs: a live table on a terminal, a line for each trial elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from migaki.core.units import seconds_text
from migaki.search.job import Job, natural
from migaki.search.ledger import Entry

__all__ = ["Board", "LiveBoard", "PlainBoard", "board_for", "settings_text"]

_SHOWN = 12


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings in one line, by the last part of their names.

    >>> settings_text({"training.learning_rate": 0.0003, "method.rank": 8})
    'learning_rate 0.0003, rank 8'
    """
    return ", ".join(f"{path.rsplit('.', 1)[-1]} {_value_text(value)}" for path, value in settings.items())


def _value_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value))
        if value is None or isinstance(value, bool)
        else str(value)
    )


class Board:
    """Watches in silence."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.began_s = time.monotonic()
        self._before: int | None = None

    def update(self, entries: Sequence[Entry]) -> None:
        """The list of trials, whenever it may have changed."""

    def note(self, text: str) -> None:
        """One line about what is being done."""

    def close(self) -> None:
        """Nothing comes any more."""

    def left_s(self, entries: Sequence[Entry]) -> float | None:
        """Seconds until all is done, by what the trials of this process's life took; None before one has ended."""
        done = sum(e.state in ("finished", "stopped", "failed", "waiting") for e in entries)
        if self._before is None:
            self._before = done
        if done <= self._before:
            return None
        each_s = (time.monotonic() - self.began_s) / (done - self._before)
        finals = self.job.seeds * (self.job.candidates + 1)
        whole = [e.facts["seconds"] for e in entries if e.state == "finished"]
        sure_s = finals * (sum(whole) / len(whole) if whole else self.job.whole_s) / self.job.workers
        left = (self.job.limit - done) * each_s + sure_s
        if self.job.deadline_s is not None:
            left = min(left, max(0.0, self.job.deadline_s - time.time()))
        return left

    def best(self, entries: Sequence[Entry]) -> Entry | None:
        """The trial with the best figure that is known."""
        return max((e for e in entries if e.figure), key=lambda e: (e.figure, -e.number), default=None)

    def figure_text(self, entry: Entry) -> str:
        if entry.figure is None:
            return ""
        part = max(entry.figures) / entry.evaluations
        so_far = f" at {100 * part:.0f} %" if part < 1 else ""
        return f"{natural(self.job.task, entry.figure):.4f}{so_far}"


class PlainBoard(Board):
    """A line for each trial that has ended or was halted."""

    def __init__(self, job: Job, stream: TextIO | None = None) -> None:
        super().__init__(job)
        self._stream = stream or sys.stderr
        self._told: dict[int, tuple[str, int]] = {}

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def update(self, entries: Sequence[Entry]) -> None:
        left_s, best = self.left_s(entries), self.best(entries)
        for entry in entries:
            now = (entry.state, max(entry.figures, default=0))
            if entry.state == "running" or self._told.get(entry.number) == now:
                continue
            halted = self._told.get(entry.number, ("", 0))[0] == "waiting"
            self._told[entry.number] = now
            if entry.state == "stopped" and halted:
                continue  # told already; it only does not go on any more
            left = f"; about {seconds_text(left_s)} left" if left_s is not None else ""
            self.note(f"trial {entry.name} of {self.job.limit}: {self._text(entry, best)}{left}")

    def _text(self, entry: Entry, best: Entry | None) -> str:
        what = f"{entry.origin}: {settings_text(entry.settings)}"
        if entry.state == "failed":
            return f"{what}: failed, {entry.facts.get('reason', 'no reason is known')}"
        ended = {"waiting": ", halted", "stopped": ", stopped"}.get(entry.state, "")
        first = ", best so far" if best is not None and best.number == entry.number else ""
        return f"{what}: {self.job.task.primary[0]} {self.figure_text(entry)}{ended}{first}"


class LiveBoard(Board):
    """The newest trials and the best one, redrawn in place."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True, highlight=False, emoji=False)
        self._live = Live(console=self._console, auto_refresh=False)
        self._live.start()

    def note(self, text: str) -> None:
        self._live.console.print(text, markup=False)

    def update(self, entries: Sequence[Entry]) -> None:
        from rich.table import Table

        best, left_s = self.best(entries), self.left_s(entries)
        left = f", about {seconds_text(left_s)} left" if left_s is not None else ""
        title = f"{sum(e.state != 'running' for e in entries)} of {self.job.limit} trials{left}"
        table = Table(title=title)
        for column in ("trial", "state", self.job.task.primary[0], "settings", "why"):
            table.add_column(column)
        shown = entries[-_SHOWN:]
        for entry in ([best] if best is not None and best not in shown else []) + list(shown):
            star = "* " if best is not None and entry.number == best.number else ""
            table.add_row(
                f"{star}{entry.name}",
                entry.state,
                self.figure_text(entry),
                settings_text(entry.settings),
                entry.origin,
            )
        self._live.update(table, refresh=True)

    def close(self) -> None:
        self._live.stop()


def board_for(job: Job, stream: TextIO | None = None) -> Board:
    """Live on a terminal, plain elsewhere."""
    return LiveBoard(job) if (stream or sys.stderr).isatty() else PlainBoard(job, stream)
