"""The learner of `gazetteer`: names and their labels, looked up in texts."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from migaki.core.parts import Example
from migaki.core.store import read_json
from migaki.core.types import Dataset, Prediction, Row, Span, spans_text
from migaki.methods.stepless import Stepless

__all__ = ["NamesLearner", "load_names"]

_FILE = "names.json"
_LETTER = re.compile("[0-9A-Za-z\u00c0-\u024f\u0370-\u052f\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]")
"""Letters of scripts that divide words by spaces: there a name is never a piece of a longer word."""


class NamesLearner(Stepless):
    """The longest name that stands at a place, from left to right."""

    def __init__(self, labels: Sequence[str], names: Mapping[str, tuple[str, float]] | None = None) -> None:
        """`names` has for each name its label and how often, of the places where it stands, it is named so (0..1)."""
        self._labels = tuple(labels)
        self._asleep = False
        self._learn(names or {})

    def _learn(self, names: Mapping[str, tuple[str, float]]) -> None:
        self._names = dict(names)
        self._by_first: dict[str, list[str]] = defaultdict(list)
        for name in sorted(self._names, key=lambda name: (-len(name), name)):
            self._by_first[name[0]].append(name)

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    def encode(self, dataset: Dataset) -> Sequence[Example]:
        """Rows as they are; there are no tokens."""
        return [Example(row, (), (), float(len(row.content.spans)), len(row.content.spans)) for row in dataset.rows]

    def settle(
        self, train: Sequence[Example], valid: Sequence[Row], passes: int, note: Callable[[str], None]
    ) -> dict[str, Any]:
        """Collect the names, look all of them up in the rows they come from, and keep those that are mostly right."""
        rows = [e.row for e in train]
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for row in rows:
            for span in row.content.spans:
                counts[row.content.text[span.start : span.end]][span.label] += 1
        every = {name: (max(sorted(c), key=lambda label: c[label]), 1.0) for name, c in counts.items()}
        found, right = Counter[str](), Counter[str]()
        matcher = NamesLearner(self._labels, every)
        for row in rows:
            named = set(row.content.spans)
            for span in matcher.find(row.content.text):
                name = row.content.text[span.start : span.end]
                found[name] += 1
                right[name] += span in named
        kept = {
            name: (label, right[name] / found[name])
            for name, (label, _) in every.items()
            if 2 * right[name] >= found[name] > 0
        }
        self._learn(kept)
        note(f"{len(kept)} names of {len(every)} are looked up; the others mostly mean something else")
        return {"path": "names", "names": len(kept), "left_out": len(every) - len(kept)}

    def find(self, text: str) -> list[Span]:
        """The names in a text, none over another."""
        found: list[Span] = []
        at = 0
        while at < len(text):
            name = next(
                (n for n in self._by_first.get(text[at], ()) if text.startswith(n, at) and _whole(text, at, n)), None
            )
            if name is None:
                at += 1
                continue
            label, share = self._names[name]
            found.append(Span(at, at + len(name), label, share))
            at += len(name)
        return found

    def predict(
        self, rows: Sequence[Row], *, answers: int | None = None, watch: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """The names in each text; there are no probabilities of tokens, so there is no loss."""
        predictions = []
        for row in rows:
            spans = tuple(self.find(row.content.text)) if not self._asleep else ()
            wanted = row.content.spans
            hits = len(set(wanted or ()) & set(spans))
            predictions.append(
                Prediction(
                    place=row.place,
                    output=spans_text(spans),
                    target=None if wanted is None else spans_text(wanted),
                    text=row.content.text,
                    spans=spans,
                    part=(2.0 * hits, float(len(wanted) + len(spans))) if wanted is not None else None,
                )
            )
            watch(len(predictions))
        return predictions

    @contextmanager
    def untrained(self) -> Iterator[None]:
        self._asleep = True
        try:
            yield
        finally:
            self._asleep = False

    def save(self, folder: Path) -> None:
        """Labels and names as JSON."""
        state = {"labels": self._labels, "names": {name: list(facts) for name, facts in sorted(self._names.items())}}
        (folder / _FILE).write_text(json.dumps(state, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def marked(self, example: Example) -> list[tuple[str, bool]]:
        text, pieces, at = example.row.content.text, [], 0
        for span in example.row.content.spans:
            pieces += [(text[at : span.start], False), (f"{text[span.start : span.end]}/{span.label}", True)]
            at = span.end
        return [piece for piece in (*pieces, (text[at:], False)) if piece[0]]

    def describe(self, examples: Sequence[Example]) -> dict[str, Any]:
        counts = Counter(span.label for e in examples for span in e.row.content.spans)
        return {"labels": {label: counts[label] for label in self._labels}}

    def parameter_counts(self) -> tuple[int, int]:
        """The names; known once they were collected."""
        return len(self._names), len(self._names)


def load_names(folder: Path) -> NamesLearner:
    """What `NamesLearner.save` wrote."""
    state = read_json(folder / _FILE)
    return NamesLearner(state["labels"], {name: (label, share) for name, (label, share) in state["names"].items()})


def _whole(text: str, at: int, name: str) -> bool:
    """Whether no letter of a spaced script goes on over an end of the name."""
    end = at + len(name)
    before = at > 0 and _LETTER.match(text[at - 1]) and _LETTER.match(name[0])
    behind = end < len(text) and _LETTER.match(text[end]) and _LETTER.match(name[-1])
    return not before and not behind
