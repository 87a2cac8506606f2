"""Train, valid and test: balanced by label, and exact duplicates always on one side."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from migaki.core.errors import DataError
from migaki.core.seeds import derive
from migaki.core.types import Dataset, Finding, Row

__all__ = ["check_labels_known", "conflicting", "rare_labels", "repeats_between", "repeats_within", "split_off"]

_EXAMPLES = 5


def split_off(rows: Sequence[Row], fraction: float, seed: int, name: str) -> tuple[list[Row], list[Row]]:
    """Divide rows into those kept and those taken, about `fraction` of each label.

    Rows with an equal key form a group that is never divided. Groups are drawn by a hash of (seed, name, key), so the
    order of the rows in their files has no influence. A label keeps at least one group.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.content.key()].append(row)
    strata: dict[str | None, list[str]] = defaultdict(list)
    for key, members in groups.items():
        # A text with several labels belongs to the first in order, so that the choice does not depend on the row order.
        strata[min((m.content.stratum() for m in members), key=lambda label: (label is None, label))].append(key)
    taken: set[str] = set()
    # Rounding each label on its own would lose every rare label's share: what one label is owed is carried to the next.
    owed = 0.0
    for label in sorted(strata, key=lambda label: (label is None, label or "")):
        keys = sorted(strata[label], key=lambda key: derive(seed, "split", name, key))
        owed += fraction * sum(len(groups[key]) for key in keys)
        for key in keys[:-1]:
            if owed < len(groups[key]) / 2:
                break
            taken.add(key)
            owed -= len(groups[key])
    kept_rows = [row for row in rows if row.content.key() not in taken]
    return kept_rows, [row for row in rows if row.content.key() in taken]


def repeats_between(train: Dataset, other: Dataset) -> list[tuple[Row, Row]]:
    """Rows of `other` whose key also stands in train, each with the first such train row."""
    first: dict[str, Row] = {}
    for row in train.rows:
        first.setdefault(row.content.key(), row)
    return [(row, first[row.content.key()]) for row in other.rows if row.content.key() in first]


def repeats_within(rows: Sequence[Row]) -> Finding | None:
    """Exact duplicates in one file, with the place of the first copy."""
    first: dict[str, Row] = {}
    again = [(row, first[key]) for row in rows if (key := row.content.key()) in first or first.setdefault(key, row) is not row]
    if not again:
        return None
    return Finding(
        "note",
        f"{len(again)} of {len(rows)} rows repeat an earlier one",
        len(again),
        tuple(f"{row.place} = {earlier.place}" for row, earlier in again[:_EXAMPLES]),
        "They count as often as they stand there; automatic splits keep them on one side",
    )


def conflicting(rows: Sequence[Row]) -> Finding | None:
    """One text under several labels: no model can get both right."""
    by_key: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_key[row.content.key()].append(row)
    found = [members for members in by_key.values() if len({m.content.stratum() for m in members}) > 1]
    if not found:
        return None
    examples = tuple(", ".join(f"{m.place} ({m.content.stratum()})" for m in members[:3]) for members in found[:_EXAMPLES])
    return Finding("warning", f"{len(found)} texts stand under more than one label", len(found), examples, "Decide on one label for each")


def check_labels_known(train: Dataset, other: Dataset) -> None:
    """Every label of `other` must occur in train.

    Raises:
        DataError: names the labels and the first rows.
    """
    known = {row.content.stratum() for row in train.rows}
    unseen = [row for row in other.rows if row.content.stratum() not in known]
    if unseen:
        labels = ", ".join(repr(label) for label in sorted({str(row.content.stratum()) for row in unseen})[:_EXAMPLES])
        places = ", ".join(str(row.place) for row in unseen[:_EXAMPLES])
        raise DataError(
            f"{len(unseen)} {other.name} rows have labels that no train row has: {labels} (at {places}). "
            "The model could never answer them: add train rows of these labels, or correct the spelling."
        )


def rare_labels(rows: Sequence[Row], at_least: int) -> set[str | None]:
    """Labels with fewer rows than `at_least`."""
    return {label for label, count in Counter(row.content.stratum() for row in rows).items() if count < at_least}
