"""An audit of a file that is too large for the memory: one pass, counters and hashes instead of rows."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator

import numpy as np

from migaki.audit.audit import Audit
from migaki.audit.labels import spelling
from migaki.audit.light import EXAMPLES, Level, Light, text_of
from migaki.core.errors import DataError
from migaki.core.types import Place, Record, Row
from migaki.data.duplicates import compared_form, near_pairs
from migaki.data.formats import READERS
from migaki.data.privacy import find_personal
from migaki.data.streaming import iter_records
from migaki.evaluation.slices import script_of

__all__ = ["LARGE_BYTES", "audit_file"]

LARGE_BYTES = 256 << 20
"""From this size on a file is gone through instead of loaded; its rows would take about ten times as much."""
_SAMPLE = 20_000
"""Rows that are kept to look for near duplicates: every k-th, k doubling whenever there are twice as many."""
_PROBLEMS = 20
_NEAR = 0.8
_MOST_LABELS = 10_000


class _Counts:
    """What one pass remembers: a few bytes a row."""

    def __init__(self) -> None:
        self.n = 0
        self.hashes, self.lines, self.lengths = array("Q"), array("L"), array("L")
        self.labels: Counter[str] = Counter()
        self.first_of_label: dict[str, Place] = {}
        self.scripts: Counter[str] = Counter()
        self.personal: Counter[str] = Counter()
        self.first_personal: dict[str, Place] = {}
        self.sample: list[tuple[Place, str]] = []
        self.every = 1

    def add(self, row: Row) -> None:
        text = text_of(row)
        digest = hashlib.blake2b(compared_form(text).encode(), digest_size=8).digest()
        self.hashes.append(int.from_bytes(digest, "little"))
        self.lines.append(row.place.line)
        self.lengths.append(len(text))
        label = row.content.stratum()
        if label is not None and (label in self.labels or len(self.labels) < _MOST_LABELS):
            self.labels[label] += 1
            self.first_of_label.setdefault(label, row.place)
        self.scripts[script_of(text)] += 1
        for kind in {p.kind for p in find_personal(text)}:
            self.personal[kind] += 1
            self.first_personal.setdefault(kind, row.place)
        if self.n % self.every == 0:
            self.sample.append((row.place, text))
            if len(self.sample) > 2 * _SAMPLE:
                self.sample, self.every = self.sample[::2], 2 * self.every
        self.n += 1


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
    lengths = np.sort(np.frombuffer(counts.lengths, dtype=np.dtype("L")))
    at = {"least": 0.0, "median": 0.5, "p95": 0.95, "most": 1.0}
    facts = {
        "rows": {"train": counts.n, "valid": 0, "test": 0},
        "characters": {name: int(lengths[min(int(share * counts.n), counts.n - 1)]) for name, share in at.items()},
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
    hashes = np.frombuffer(counts.hashes, dtype=np.uint64)
    order = np.argsort(hashes, kind="stable")
    twin = hashes[order][1:] == hashes[order][:-1]
    n_twins = int(twin.sum())
    level: Level = "yellow" if n_twins > 0.01 * counts.n else "green"
    pairs = [(int(counts.lines[order[i + 1]]), int(counts.lines[order[i]])) for i in np.flatnonzero(twin)[:EXAMPLES]]
    examples = tuple(f"{source}:{b} = {source}:{a}" for b, a in pairs)
    yield Light(
        "repeats",
        level,
        f"{n_twins} of {counts.n} texts repeat an earlier one (case, width and spaces aside)",
        n_twins,
        examples,
        "" if level == "green" else "leave copies out, or keep them on one side of a split",
    )
    texts = [text for _, text in counts.sample]
    near = [(a, b) for a, b, share in near_pairs(texts, _NEAR) if share < 1.0]
    places = tuple(f"{counts.sample[b][0]} ~ {counts.sample[a][0]}" for a, b in near[:EXAMPLES])
    share = len({b for _, b in near}) / len(texts)
    yield Light(
        "near duplicates",
        "yellow" if share > 0.05 else "green",
        f"of a sample of {len(texts)} texts {share:.1%} are almost the same as another",
        len(near),
        places,
    )
    if counts.labels:
        yield from spelling(counts.labels, counts.first_of_label)
    if counts.personal:
        kinds = ", ".join(f"{kind} in {n} rows" for kind, n in sorted(counts.personal.items()))
        first = tuple(f"{place} ({kind})" for kind, place in sorted(counts.first_personal.items()))
        yield Light(
            "personal data",
            "yellow",
            f"what looks personal: {kinds}. A model can repeat it",
            sum(counts.personal.values()),
            first,
            f"data.clean: [{{kind: mask, kinds: [{', '.join(sorted(counts.personal))}]}}]",
        )
