"""Too long rows are counted and named before anything is trained, for every task by the same rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from migaki.core.errors import TruncationError
from migaki.core.parts import Example
from migaki.core.types import Dataset, Finding, Row

__all__ = ["Overlong", "check_seconds", "check_truncation", "cut_spans_finding", "truncation_finding"]

_EXAMPLES = 5


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
    # A quotient, as a person would work it out: 0.29 * 100 is less than 29 in floating point.
    if not overlong or len(overlong) / n_rows <= allowed:
        return
    longest = max(item.n_tokens for item in overlong)
    first = ", ".join(f"{item.row.place} ({item.n_tokens} tokens)" for item in overlong[:_EXAMPLES])
    raise TruncationError(
        f"{len(overlong)} of {n_rows} {split} rows are longer than {limit} tokens and would lose their end (first: {first}). "
        f"Raise task.max_length (the longest row has {longest}), shorten the rows, "
        f"or allow it with task.allow_truncated: {-(-100 * len(overlong) // n_rows) / 100}."
    )


def check_seconds(dataset: Dataset, seconds: Sequence[float], limit: float, allowed: float) -> None:
    """The same of recordings, which are `seconds` long each.

    Raises:
        TruncationError: counts the recordings and names the first ones.
    """
    overlong = [(row, s) for row, s in zip(dataset.rows, seconds, strict=True) if s > limit]
    n_rows = len(dataset)
    if not overlong or len(overlong) / n_rows <= allowed:
        return
    first = ", ".join(f"{row.place} ({s:.1f} s)" for row, s in overlong[:_EXAMPLES])
    raise TruncationError(
        f"{len(overlong)} of {n_rows} {dataset.name} recordings are longer than {limit:g} s and would lose their end (first: "
        f"{first}). Cut them into parts, raise task.max_seconds as far as the model allows, "
        f"or allow it with task.allow_truncated: {-(-100 * len(overlong) // n_rows) / 100}."
    )


def truncation_finding(examples: Sequence[Example], split: str) -> Finding | None:
    """Rows that are allowed to lose their end, with their places; None where no row does."""
    cut = [example for example in examples if example.truncated]
    if not cut:
        return None
    than, setting = f"{max(map(len, cut))} tokens", "max_length"
    if cut[0].size:
        than, setting = "the model is to hear of one", "max_seconds"
    return Finding(
        "warning",
        f"{len(cut)} of {len(examples)} {split} rows are longer than {than} and lose their end",
        len(cut),
        tuple(str(example.row.place) for example in cut[:_EXAMPLES]),
        f"Raise task.{setting} or shorten the rows; task.allow_truncated says how many may be cut",
    )


def cut_spans_finding(examples: Sequence[Example], split: str) -> Finding | None:
    """Named parts that begin or end inside a token, so that no answer can be exactly right; None where there is none."""
    cut = [said for example in examples for said in example.cut_spans]
    if not cut:
        return None
    total = sum(len(row.content.spans) for row in {id(e.row): e.row for e in examples}.values())
    return Finding(
        "warning",
        f"{len(cut)} of {total} named parts of the {split} rows begin or end inside a token and can at best be found by half, so recall "
        f"stays below {(total - len(cut)) / total:.1%}",
        len(cut),
        tuple(cut[:_EXAMPLES]),
        "Set task.units: characters, or correct parts that end inside a word",
    )
