"""An audit of a file that is too large for the memory: one pass, counters and hashes instead of rows."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator

import numpy as np

from migaki.audit.audit import Audit
from migaki.audit.labels import spelling
from migaki.audit.light import EXAMPLES, Level, Light, text_of
from migaki.core.errors import DataError
from migaki.core.types import Place, Record, Row
from migaki.data.duplicates import compared_form, near_earlier
from migaki.data.formats import READERS
from migaki.data.privacy import find_personal
from migaki.data.streaming import iter_records
from migaki.evaluation.slices import script_of

__all__ = ["LARGE_BYTES", "audit_file"]

LARGE_BYTES = 256 << 20
"""From this size on a file is gone through instead of loaded; its rows would take about ten times as much."""
_SAMPLE, _SAMPLE_CHARACTERS = 20_000, 1 << 23
"""Rows that are kept to look for near duplicates, and how much text in them: every k-th, k doubling whenever there are twice
as many rows or too much text."""
_PROBLEMS = 20
_NEAR = 0.8
_MOST_LABELS = 10_000
_PARTS_OF_HASHES = 16


class _Counts:
    """What one pass remembers: nine bytes a row where rows stand on neighbouring lines."""

    def __init__(self) -> None:
        self.n = 0
        self.hashes, self.lines = array("Q"), _Lines()
        self.lengths: Counter[int] = Counter()
        self.labels: Counter[str] = Counter()
        self.first_of_label: dict[str, Place] = {}
        self.scripts: Counter[str] = Counter()
        self.personal: Counter[str] = Counter()
        self.first_personal: dict[str, Place] = {}
        self.sample: list[tuple[Place, str]] = []
        self.every, self._sampled = 1, 0

    def add(self, row: Row) -> None:
        text = text_of(row)
        self.hashes.frombytes(hashlib.blake2b(compared_form(text).encode(), digest_size=8).digest())
        self.lines.add(row.place.line)
        self.lengths[len(text)] += 1
        label = row.content.stratum()
        if label is not None and (label in self.labels or len(self.labels) < _MOST_LABELS):
            self.labels[label] += 1
            self.first_of_label.setdefault(label, row.place)
        self.scripts[script_of(text)] += 1
        for kind in {p.kind for p in find_personal(text)}:
            self.personal[kind] += 1
            self.first_personal.setdefault(kind, row.place)
        if self.n % self.every == 0:
            self._keep(row.place, text)
        self.n += 1

    def _keep(self, place: Place, text: str) -> None:
        self.sample.append((place, text))
        self._sampled += len(text)
        while len(self.sample) > 2 * _SAMPLE or (self._sampled > _SAMPLE_CHARACTERS and len(self.sample) > 1):
            self.sample, self.every = self.sample[::2], 2 * self.every
            self._sampled = sum(len(text) for _, text in self.sample)

    def length_at(self, share: float) -> int:
        """Characters of the text behind which this share of all texts is at least as long."""
        behind = min(int(share * self.n), self.n - 1)
        for length in sorted(self.lengths):
            behind -= self.lengths[length]
            if behind < 0:
                return length
        raise AssertionError("every text has a length")


class _Lines:
    """The line of each row. Only where it is not the one behind the row before is anything kept."""

    def __init__(self) -> None:
        self._rows, self._lines = array("Q"), array("Q")
        self._n, self._next = 0, -1

    def add(self, line: int) -> None:
        if line != self._next:
            self._rows.append(self._n)
            self._lines.append(line)
        self._n, self._next = self._n + 1, line + 1

    def __getitem__(self, row: int) -> int:
        at = bisect_right(self._rows, row) - 1
        return self._lines[at] + row - self._rows[at]


def audit_file(source: str, content_kind: str) -> Audit:
    """Go through the file once.

    Raises:
        DataError: a row cannot be used; lists the first ones.
    """
    reader = READERS[content_kind]
    counts, n_problems = _Counts(), 0
    problems: list[str] = []
    columns = None
    for record in iter_records(source):
        if isinstance(record, Record):
            try:
                columns = columns or reader.choose(list(record.values), {})
                counts.add(Row(record.place, reader(record.values, columns, True)))
                continue
            except ValueError as error:
                record = f"{record.place}: {error}"
        n_problems += 1
        if len(problems) < _PROBLEMS:
            problems.append(record)
    if n_problems:
        shown = "\n".join(f"  - {problem}" for problem in problems)
        raise DataError(f"{n_problems} of {counts.n + n_problems} rows cannot be used:\n{shown}")
    if not counts.n:
        raise DataError(f"{source} has no rows. Give a file with at least one row.")
    order = {"red": 0, "yellow": 1, "green": 2}
    lights = sorted(_lights(counts, source), key=lambda light: order[light.level])
    at = {"least": 0.0, "median": 0.5, "p95": 0.95, "most": 1.0}
    facts = {
        "rows": {"train": counts.n, "valid": 0, "test": 0},
        "characters": {name: counts.length_at(share) for name, share in at.items()},
        "scripts": dict(counts.scripts.most_common()),
        "labels": {label: {"train": n, "valid": 0, "test": 0} for label, n in counts.labels.most_common()},
    }
    return Audit(tuple(lights), facts)


def _lights(counts: _Counts, source: str) -> Iterator[Light]:
    yield Light(
        "size",
        "green",
        f"{source} is large: it was gone through line by line, checks that need all rows at once were left out",
    )
    yield _repeats(counts, source)
    yield _near_duplicates(counts)
    if counts.labels:
        yield from spelling(counts.labels, counts.first_of_label)
    if counts.personal:
        yield _personal_data(counts)


def _repeats(counts: _Counts, source: str) -> Light:
    n_twins, twins = 0, list[tuple[int, int]]()
    for earlier_A, later_A in _equal(counts.hashes):
        n_twins += len(later_A)
        shown = slice(EXAMPLES - len(twins))
        twins += zip(earlier_A[shown].tolist(), later_A[shown].tolist(), strict=True)
    level: Level = "yellow" if n_twins > 0.01 * counts.n else "green"
    return Light(
        "repeats",
        level,
        f"{n_twins} of {counts.n} texts repeat an earlier one (case, width and spaces aside)",
        n_twins,
        tuple(f"{source}:{counts.lines[later]} = {source}:{counts.lines[earlier]}" for earlier, later in twins),
        "" if level == "green" else "leave copies out, or keep them on one side of a split",
    )


def _equal(hashes: array[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers of rows with equal hashes, (A,) and (A,), each of the second paired with the last one before it in the first.

    A part of all hashes at a time, in the order of their values: to sort them all would take three times their memory.
    """
    hash_N = np.frombuffer(hashes, dtype=np.uint64)
    width = (1 << 64) // _PARTS_OF_HASHES
    for part in range(_PARTS_OF_HASHES):
        inside_N = hash_N >= np.uint64(part * width)
        inside_N &= hash_N <= np.uint64((part + 1) * width - 1)
        row_A = np.flatnonzero(inside_N)
        row_A = row_A[np.argsort(hash_N[row_A], kind="stable")]
        twin_A = np.diff(hash_N[row_A]) == 0
        yield row_A[:-1][twin_A], row_A[1:][twin_A]


def _near_duplicates(counts: _Counts) -> Light:
    texts = [text for _, text in counts.sample]
    n_pairs, rows, first = 0, set[int](), list[tuple[int, int]]()
    for number, earlier_A, share_A in near_earlier(texts, _NEAR):
        others = earlier_A[share_A < 1.0].tolist()
        if others:
            rows.add(number)
            n_pairs += len(others)
            first = sorted([*first, *((other, number) for other in others[:EXAMPLES])])[:EXAMPLES]
    share = len(rows) / len(texts)
    return Light(
        "near duplicates",
        "yellow" if share > 0.05 else "green",
        f"of a sample of {len(texts)} texts {share:.1%} are almost the same as another",
        n_pairs,
        tuple(f"{counts.sample[later][0]} ~ {counts.sample[earlier][0]}" for earlier, later in first),
    )


def _personal_data(counts: _Counts) -> Light:
    kinds = ", ".join(f"{kind} in {n} rows" for kind, n in sorted(counts.personal.items()))
    return Light(
        "personal data",
        "yellow",
        f"what looks personal: {kinds}. A model can repeat it",
        sum(counts.personal.values()),
        tuple(f"{place} ({kind})" for kind, place in sorted(counts.first_personal.items())),
        f"data.clean: [{{kind: mask, kinds: [{', '.join(sorted(counts.personal))}]}}]",
    )
