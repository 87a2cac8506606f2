"""Every error that migaki raises on purpose, drawn as a tree.

    MigakiError                 exit 1
    ├── UsageError              exit 2: nothing was started, the user can mend it
    │   ├── RecipeError         a recipe, --set or command line that cannot be used; lists all problems
    │   ├── DataError           a file or row that cannot be used; names file:line
    │   │   ├── LeakError       rows shared by two splits
    │   │   └── TruncationError too many rows longer than the model or the recipe allows
    │   ├── ModelError          a model reference, folder or template that cannot be used
    │   └── RunNotFoundError    no such run
    └── RunError                exit 1: work was started and did not end well
        ├── NonFiniteError      NaN or Inf in loss or gradient
        ├── DamagedError        a stored file is missing or differs from its manifest
        ├── LockedError         another process writes this run
        ├── StoppedError        a signal asked the work to end (exit 128 + its number); it can go on
        └── StorageError        the disk is full or not writable

A message says what was found and where, why it matters, and what to do in the recipe's own words.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "DamagedError",
    "DataError",
    "LeakError",
    "LockedError",
    "MigakiError",
    "ModelError",
    "NonFiniteError",
    "Problem",
    "RecipeError",
    "RunError",
    "RunNotFoundError",
    "StoppedError",
    "StorageError",
    "TruncationError",
    "UsageError",
]


class MigakiError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(MigakiError):
    """Nothing was started: the recipe, the data, the model or the command has to be mended first."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a recipe: where (`method.rank`, or file:line), what, and the remedy."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class RecipeError(UsageError):
    """A recipe that cannot be used. `problems` holds every problem found, not only the first."""

    def __init__(self, problems: Sequence[Problem] | str, source: str = "recipe") -> None:
        self.problems = [Problem("", problems)] if isinstance(problems, str) else list(problems)
        count = len(self.problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"{source}: {count} problem{'s' if count > 1 else ''} found, nothing was started.\n{lines}")


class DataError(UsageError):
    """A file or row that cannot be used; the message names file:line and the remedy."""


class LeakError(DataError):
    """The same row stands in two splits, so a score would be too high."""


class TruncationError(DataError):
    """Too many rows would lose text or targets to the length limit."""


class ModelError(UsageError):
    """A model reference, a model folder or a chat template that cannot be used."""


class RunNotFoundError(UsageError):
    """No run with that name in the runs folder."""


class RunError(MigakiError):
    """Work was started and did not end well."""


class NonFiniteError(RunError):
    """The loss or a gradient became NaN or Inf."""


class DamagedError(RunError):
    """A stored file is missing or is not what its manifest says."""


class LockedError(RunError):
    """Another process is writing this run."""


class StoppedError(RunError):
    """A signal asked the work to end; what was done is kept and the same command goes on with it."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__(f"stopped by {signal.Signals(number).name}; the same command goes on from here.")


class StorageError(RunError):
    """The disk is full, read-only, or not ours to write."""
