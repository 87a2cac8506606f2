"""Faults in rows, gathered so that one try shows them all."""

from __future__ import annotations

from collections.abc import Sequence

from migaki.core.errors import DataError
from migaki.core.types import ended

__all__ = ["refuse_rows"]

_SHOWN = 20


def refuse_rows(problems: Sequence[str], n_rows: int, remedy: str = "") -> None:
    """Nothing where there are no problems; otherwise one error with the first twenty, each with its file:line, and what to do
    about all of them.

    Raises:
        DataError: there are problems.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise DataError(f"{ended(problems[0])} {remedy}" if remedy else problems[0])
    lines = "".join(f"\n  - {problem}" for problem in problems[:_SHOWN])
    more = f"\n  ... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    raise DataError(
        f"{len(problems)} of {n_rows} rows cannot be used:{lines}{more}" + (f"\n{remedy}" if remedy else "")
    )
