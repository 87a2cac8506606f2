"""Train, valid and test: balanced by label, and copies of a row (case, width and spaces aside) always on one side."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from migaki.core.codec import nearest
from migaki.core.errors import DataError
from migaki.core.seeds import derive
from migaki.core.types import Dataset, Finding, Place, Record, Row, Several, shorten
from migaki.data.balance import dealt
from migaki.data.duplicates import clusters, copy_form, near_pairs
from migaki.data.problems import refuse_rows

__all__ = [
    "check_labels_known",
    "conflicting",
    "fold_off",
    "groups_of",
    "labels_of",
    "newest",
    "rare_labels",
    "repeats_between",
    "repeats_within",
    "split_off",
    "times_of",
]

_EXAMPLES = 5

Together = Callable[[Row], str]
"""Rows of one key are never divided."""


def split_off(
    rows: Sequence[Row], fraction: float, seed: int, name: str, together: Together | None = None
) -> tuple[list[Row], list[Row]]:
    """Divide rows into those kept and those taken, about `fraction` of each label, each in their old order.

    Rows with an equal key form a group that is never divided. Groups are drawn by a hash of (seed, name, key), so the
    order of the rows in their file has no influence. A label keeps at least one group; where anything can be taken,
    at least one group is. Rows with any number of labels are balanced label by label, see `dealt`.

    Args:
        rows: to divide.
        fraction: of the rows, 0..1.
        seed: of the draw.
        name: of the split, which makes another draw.
        together: the key of each row; None: one that copies have in common.
    """
    key_of = together or _copies_together(rows)
    groups, strata = _grouped(rows, key_of)
    if _several(rows):
        part_of = dealt(groups, [1 - fraction, fraction], seed, f"split {name}", keep_first=True)
        return _divided(rows, {key for key, part in part_of.items() if part}, key_of)
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
    return _divided(rows, taken, key_of)


def fold_off(
    rows: Sequence[Row], folds: int, fold: int, seed: int, together: Together | None = None
) -> tuple[list[Row], list[Row]]:
    """The rows outside and inside one of `folds` parts of about equal size and equal labels; every row is in exactly one.

    Raises:
        DataError: there are fewer groups of rows than parts.
    """
    key_of = together or _copies_together(rows)
    groups, strata = _grouped(rows, key_of)
    if len(groups) < folds:
        raise DataError(
            f"data.split.folds is {folds}, but the rows form only {len(groups)} groups that must not be divided. "
            "Take fewer folds."
        )
    if _several(rows):
        part_of = dealt(groups, [1 / folds] * folds, seed, "fold")
        return _divided(rows, {key for key, part in part_of.items() if part == fold}, key_of)
    sizes = [0] * folds
    taken = set()
    for label, keys in sorted(strata.items()):
        in_label = [0] * folds
        # Large groups first, each to the part that has fewest rows of the label, then fewest of all.
        for key in sorted(keys, key=lambda key: (-len(groups[key]), derive(seed, "fold", key))):
            part = min(range(folds), key=lambda part: (in_label[part], sizes[part], derive(seed, label, part)))
            in_label[part] += len(groups[key])
            sizes[part] += len(groups[key])
            if part == fold:
                taken.add(key)
    return _divided(rows, taken, key_of)


def newest(rows: Sequence[Row], fraction: float, times: Mapping[Place, float]) -> tuple[list[Row], list[Row]]:
    """The older rows and the newest ones, about `fraction` of all; rows of one time stay on one side.

    Raises:
        DataError: too many rows have the same time for anything to be taken.
    """
    ordered = sorted((times[row.place] for row in rows), reverse=True)
    n_wanted = max(1, round(fraction * len(rows)))
    # The time at which the taken rows begin: the one that comes nearest to the wanted number.
    steps = [at for at in range(1, len(ordered)) if ordered[at] < ordered[at - 1]]
    if not steps:
        raise DataError(
            f"All {len(rows)} rows that are left have the same time, so none of them is newer. Give another column as "
            "data.split.time, or files as data.valid and data.test."
        )
    n_taken = min(steps, key=lambda at: (abs(at - n_wanted), at))
    begin = ordered[n_taken - 1]
    return [row for row in rows if times[row.place] < begin], [row for row in rows if times[row.place] >= begin]


def times_of(rows: Sequence[Row], records: Sequence[Record], column: str) -> dict[Place, float]:
    """When each row is from, as a number: seconds since 1970 (UTC where no zone is given), or the number that stands there.

    Raises:
        DataError: the column is not there, or lists the rows whose time cannot be read.
    """
    _check_column(records, column, "data.split.time")
    found, problems = {}, []
    for row, record in zip(rows, records, strict=True):
        try:
            found[row.place] = _time(record.values.get(column))
        except ValueError:
            value = shorten(repr(record.values.get(column)))
            problems.append(
                f"{row.place}: {value} in column {column!r} is no time. Write 2026-01-31 or 2026-01-31 12:00."
            )
    refuse_rows(problems, len(rows))
    return found


def _time(value: Any) -> float:
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, date):
        moment = datetime(value.year, value.month, value.day)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(value)
        return float(value)
    else:
        text = str(value).strip().replace("/", "-")
        try:
            number = float(text)
        except ValueError:
            moment = datetime.fromisoformat(text)
        else:
            return _time(number)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def groups_of(
    rows: Sequence[Row], records: Sequence[Record], column: str | None, near: float | None
) -> Together | None:
    """A key that is equal for rows which must not be divided: copies, equal values of a column, similar texts.

    Raises:
        DataError: the column is not there, or empty in some rows.
    """
    if column is None and near is None:
        return None
    keys = [row.content.key() for row in rows]
    pairs: list[tuple[int, int]] = []
    first: dict[tuple[str, str], int] = {}
    named = [("key", copy_form(key)) for key in keys]
    for number, name in enumerate(named):
        pairs.append((first.setdefault(name, number), number))
    if column is not None:
        _check_column(records, column, "data.split.by")
        values = [
            str(record.values.get(column) if record.values.get(column) is not None else "").strip()
            for record in records
        ]
        problems = [
            f"{row.place}: column {column!r} is empty, so it is not known to which group the row belongs. Fill it in."
            for row, value in zip(rows, values, strict=True)
            if not value
        ]
        refuse_rows(problems, len(rows))
        for number, value in enumerate(values):
            pairs.append((first.setdefault(("group", value), number), number))
    if near is not None:
        pairs += [(a, b) for a, b, _ in _near_rows(rows, keys, near)]
    cluster_N = clusters(len(rows), pairs)
    # Named by the smallest key in it, so that the draw does not depend on the order of the rows.
    smallest: dict[int, str] = {}
    for number, cluster in enumerate(cluster_N.tolist()):
        smallest[cluster] = min(smallest.get(cluster, keys[number]), keys[number])
    by_place = {row.place: smallest[cluster] for row, cluster in zip(rows, cluster_N.tolist(), strict=True)}
    return lambda row: by_place[row.place]


def _near_rows(rows: Sequence[Row], keys: Sequence[str], near: float) -> list[tuple[int, int, float]]:
    """Pairs of rows that are almost the same: texts by their 3-grams, images by their pixels.

    Raises:
        DataError: rows are files of which that cannot be told.
    """
    media = [row.content.media for row in rows if hasattr(row.content, "media")]
    if not media:
        return near_pairs(keys, near)
    if not all(one.likeness for one in media):
        raise DataError(
            f"data.split.near compares texts and images, but {media[0].path} is neither. Keep recordings that belong together on "
            "one side by a column: data.split: {by: speaker}."
        )
    from migaki.data.near_images import near_images

    return near_images(media, near)


def _check_column(records: Sequence[Record], column: str, setting: str) -> None:
    names = list(dict.fromkeys(name for record in records for name in record.values))
    if column not in names:
        source = records[0].place.source
        raise DataError(f"{setting} names the column {column!r}, which is not in {source}; {nearest(column, names)}")


def _copies_together(rows: Sequence[Row]) -> Together:
    """A key that copies have in common: the smallest of their own, so that the draw does not depend on their order."""
    keys = {row.content.key() for row in rows}
    smallest: dict[str, str] = {}
    form_of = {key: copy_form(key) for key in keys}
    for key in sorted(keys):
        smallest.setdefault(form_of[key], key)
    return lambda row: smallest[form_of[row.content.key()]]


def _grouped(rows: Sequence[Row], key_of: Together) -> tuple[dict[str, list[Row]], dict[str, list[str]]]:
    """Rows by key, and keys by label."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key_of(row)].append(row)
    strata: dict[str, list[str]] = defaultdict(list)
    for key, members in groups.items():
        # A group with several labels belongs to the first in order, so that the choice does not depend on the row order.
        strata[min(_stratum(member) for member in members)].append(key)
    return groups, strata


def _divided(rows: Sequence[Row], taken: Container[str], key_of: Together) -> tuple[list[Row], list[Row]]:
    return [row for row in rows if key_of(row) not in taken], [row for row in rows if key_of(row) in taken]


def _several(rows: Sequence[Row]) -> bool:
    return bool(rows) and isinstance(rows[0].content, Several)


def labels_of(row: Row) -> frozenset[str | None]:
    """Every label of a row: one where it has one, any number where it may have several, None where there are none to know."""
    return frozenset(row.content.names() if isinstance(row.content, Several) else [row.content.stratum()])


def _answer(row: Row) -> str | None:
    """What is to be learned from a row, for comparing it with that of another."""
    if not isinstance(row.content, Several):
        return row.content.stratum()  # type: ignore[no-any-return]
    return json.dumps(row.content.as_json(), sort_keys=True)  # type: ignore[attr-defined]


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
    """Rows of `other` that are copies of a train row (case, width and spaces aside), each with the first such train row."""
    first: dict[str, Row] = {}
    for row in train.rows:
        first.setdefault(copy_form(row.content.key()), row)
    forms = [copy_form(row.content.key()) for row in other.rows]
    return [(row, first[form]) for row, form in zip(other.rows, forms, strict=True) if form in first]


def repeats_within(rows: Sequence[Row]) -> Finding | None:
    """Copies in one file (case, width and spaces aside), with the place of the first one."""
    first: dict[str, Row] = {}
    again = []
    for row in rows:
        earlier = first.setdefault(copy_form(row.content.key()), row)
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
        by_key[copy_form(row.content.key())].append(row)
    found = [members for members in by_key.values() if len({_answer(m) for m in members}) > 1]
    if not found:
        return None
    examples = []
    for members in found[:_EXAMPLES]:
        first_of_answer: dict[str | None, Row] = {}
        for member in members:
            first_of_answer.setdefault(_answer(member), member)
        examples.append(", ".join(f"{row.place} ({_listed(row)})" for row in first_of_answer.values()))
    message = f"{len(found)} texts stand under more than one label"
    return Finding("warning", message, len(found), tuple(examples), "Decide on one label for each")


def _listed(row: Row) -> str:
    return ", ".join(sorted(map(str, labels_of(row)))) or "none"


def check_labels_known(train: Dataset, other: Dataset) -> None:
    """Every label of `other` must occur in train.

    Raises:
        DataError: names the labels and the first rows.
    """
    known = frozenset().union(*map(labels_of, train.rows))
    unseen = [row for row in other.rows if labels_of(row) - known]
    if unseen:
        strange = {str(label) for row in unseen for label in labels_of(row) - known}
        labels = ", ".join(repr(label) for label in sorted(strange)[:_EXAMPLES])
        places = ", ".join(str(row.place) for row in unseen[:_EXAMPLES])
        raise DataError(
            f"{len(unseen)} {other.name} rows have labels that no train row has: {labels} (at {places}). "
            "The model could never answer them: add train rows of these labels, or correct the spelling."
        )


def rare_labels(rows: Sequence[Row], at_least: int) -> set[str | None]:
    """Labels with fewer rows than `at_least`."""
    return {label for label, count in Counter(row.content.stratum() for row in rows).items() if count < at_least}
