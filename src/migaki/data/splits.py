"""Train, valid and test: balanced by label, and exact duplicates always on one side."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from migaki.core.errors import DataError
from migaki.core.seeds import derive
from migaki.core.types import Dataset, Finding, Row

__all__ = ["check_labels_known", "conflicting", "rare_labels", "repeats_between", "repeats_within", "split_off"]

_EXAMPLES = 5


def split_off(rows: Sequence[Row], fraction: float, seed: int, name: str) -> tuple[list[Row], list[Row]]:
    """Divide rows into those kept and those taken, about `fraction` of each label, each in their old order.

    Rows with an equal key form a group that is never divided. Groups are drawn by a hash of (seed, name, key), so the
    order of the rows in their file has no influence. A label keeps at least one group; where anything can be taken,
    at least one group is.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.content.key()].append(row)
    strata: dict[str, list[str]] = defaultdict(list)
    for key, members in groups.items():
        # A text with several labels belongs to the first in order, so that the choice does not depend on the row order.
        strata[min(_stratum(member) for member in members)].append(key)
    divisible = {label: keys for label, keys in strata.items() if len(keys) > 1}
    quotas = _quotas({label: sum(len(groups[key]) for key in keys) for label, keys in divisible.items()}, fraction)
    taken: set[str] = set()
    for label, keys in divisible.items():
        left = quotas[label]
        for key in sorted(keys, key=lambda key: derive(seed, "split", name, key))[:-1]:
            # A group is taken where that brings the label nearer to its quota.
            if 2 * left >= len(groups[key]) and left > 0:
                taken.add(key)
                left -= len(groups[key])
    if divisible and not taken:
        # All groups are larger than twice their label's quota: the smallest one is nearest to what was asked for.
        keys = [key for keys in divisible.values() for key in keys]
        taken.add(min(keys, key=lambda key: (len(groups[key]), derive(seed, "split", name, key))))
    kept_rows = [row for row in rows if row.content.key() not in taken]
    return kept_rows, [row for row in rows if row.content.key() in taken]


def _stratum(row: Row) -> str:
    return row.content.stratum() or ""


def _quotas(sizes: Mapping[str, int], fraction: float) -> dict[str, int]:
    """Whole rows of each label that add up to `fraction` of all: the largest remainders are rounded up."""
    exact = {label: fraction * size for label, size in sizes.items()}
    quotas = {label: math.floor(share) for label, share in exact.items()}
    spare = max(1, round(fraction * sum(sizes.values()))) - sum(quotas.values()) if sizes else 0
    for label in sorted(exact, key=lambda label: (quotas[label] - exact[label], label))[: max(0, spare)]:
        quotas[label] += 1
    return quotas


def repeats_between(train: Dataset, other: Dataset) -> list[tuple[Row, Row]]:
    """Rows of `other` whose key also stands in train, each with the first such train row."""
    first: dict[str, Row] = {}
    for row in train.rows:
        first.setdefault(row.content.key(), row)
    return [(row, first[row.content.key()]) for row in other.rows if row.content.key() in first]


def repeats_within(rows: Sequence[Row]) -> Finding | None:
    """Exact duplicates in one file, with the place of the first copy."""
    first: dict[str, Row] = {}
    again = []
    for row in rows:
        earlier = first.setdefault(row.content.key(), row)
        if earlier is not row:
            again.append((row, earlier))
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
    examples = []
    for members in found[:_EXAMPLES]:
        first_of_label: dict[str | None, Row] = {}
        for member in members:
            first_of_label.setdefault(member.content.stratum(), member)
        examples.append(", ".join(f"{row.place} ({label})" for label, row in first_of_label.items()))
    message = f"{len(found)} texts stand under more than one label"
    return Finding("warning", message, len(found), tuple(examples), "Decide on one label for each")


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
