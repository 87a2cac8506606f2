"""One thing that was looked at, and how programs are asked."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

__all__ = ["IMPORT_S", "TORCH_INDEX", "Check", "ask", "first_line", "last_line"]

IMPORT_S = 90.0
TORCH_INDEX = "https://download.pytorch.org/whl"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    level: Literal["ok", "note", "warning", "broken"]
    """`note`: could be better; `warning`: will cost time or go wrong under load; `broken`: migaki cannot work."""
    found: str
    remedy: str = ""
    """One command or one sentence that mends it."""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


def ask(command: Sequence[str], seconds: float) -> tuple[bool, str]:
    """Whether a program failed, and what it said: on stdout, or why it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return True, f"it took more than {seconds:.0f} s"
    except OSError as error:
        return True, first_line(error)
    return done.returncode != 0, (done.stderr if done.returncode else done.stdout).strip()


def first_line(error: BaseException) -> str:
    """What an error says first."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def last_line(said: str) -> str:
    """What a program said last, which is where Python puts the error."""
    return (said.splitlines() or [said])[-1]
