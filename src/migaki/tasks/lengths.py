"""Too long rows are counted and named before anything is trained, for every task by the same rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from migaki.core.errors import TruncationError
from migaki.core.types import Row

__all__ = ["Overlong", "check_truncation"]


@dataclass(frozen=True, slots=True)
class Overlong:
    """A row longer than the limit: how many tokens it has."""

    row: Row
    n_tokens: int


def check_truncation(overlong: Sequence[Overlong], n_rows: int, limit: int, allowed: float, split: str) -> None:
    """Refuse a split of which a larger share than `allowed` would lose its end.

    Raises:
        TruncationError: counts the rows and names the first ones.
    """
    if not overlong or len(overlong) <= allowed * n_rows:
        return
    longest = max(item.n_tokens for item in overlong)
    first = ", ".join(f"{item.row.place} ({item.n_tokens} tokens)" for item in overlong[:5])
    raise TruncationError(
        f"{len(overlong)} of {n_rows} {split} rows are longer than {limit} tokens and would lose their end (first: {first}). "
        f"Raise task.max_length (the longest row has {longest}), shorten the rows, "
        f"or allow it with task.allow_truncated: {min(1.0, round(len(overlong) / n_rows + 0.005, 2))}."
    )
