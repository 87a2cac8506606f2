"""Labels that are rare, uneven, stand for an empty cell, or are one label written in two ways."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from migaki.audit.light import EXAMPLES, Light, places
from migaki.core.types import Dataset, Place
from migaki.data.splits import labels_of

__all__ = ["label_lights", "one_letter_apart", "plain_label", "spelling", "variants"]

_FEW_ROWS, _UNEVEN = 5, 20.0
_EMPTY = frozenset(
    ["n/a", "na", "nan", "nil", "none", "null", "tbd", "unknown", "undefined", "-", "?", "不明", "未分類", "なし"]
)
"""What people write, or programs leave, where a label is missing."""
_BALANCED = {
    "labelled": "task: {kind: classify_text, class_weights: balanced}, or training.resample: 0.5; and read f1_macro",
    "multi_labelled": "task: {kind: label_text, class_weights: balanced}, and read f1_macro",
    "tagged": "collect texts with the rare names, and read f1 by label",
}

_KATAKANA_SIZES = str.maketrans("ァィゥェォッャュョヮ", "アイウエオツヤユヨワ")
_SHORT = 4
_RARE = 0.1
"""Of two labels one letter apart the rarer one is taken for a slip where it has at most this share of the other's rows:
`group_1` and `group_2` are both meant."""


def label_lights(train: Dataset, content_kind: str) -> Iterator[Light]:
    """What the labels of the train rows tell, of whatever kind: one a row, several, or those of named parts."""
    rows_of: dict[str, list[Place]] = defaultdict(list)
    for row in train.rows:
        for label in labels_of(row) - {None}:
            rows_of[str(label)].append(row.place)
    if not rows_of:
        return
    counts = Counter({label: len(where) for label, where in rows_of.items()})
    first = {label: where[0] for label, where in rows_of.items()}
    found = [*_rare(counts, first), *_uneven(counts, content_kind), *spelling(counts, first), *_empty(counts, first)]
    yield from found
    without = [row for row in train.rows if not labels_of(row)]
    if without:
        text = f"{len(without)} of {len(train)} train rows have no label, which is learned as well"
        yield Light("rows without a label", "green", text, len(without), places(without))
    if not found:
        most, least = max(counts.values()), min(counts.values())
        yield Light("labels", "green", f"{len(counts)} labels with {least} to {most} train rows each")


def _rare(counts: Mapping[str, int], first: Mapping[str, Place]) -> Iterator[Light]:
    few = {label: n for label, n in counts.items() if n < _FEW_ROWS}
    if few:
        shown = [f"{label} ({n}, first {first[label]})" for label, n in few.items()]
        yield Light(
            "rare labels",
            "yellow",
            f"{len(few)} of {len(counts)} labels have fewer than {_FEW_ROWS} train rows: too few to learn them or to choose by them",
            len(few),
            tuple(shown[:EXAMPLES]),
            f"data.min_rows_per_label: {_FEW_ROWS}, or collect more rows of them",
        )


def _uneven(counts: Mapping[str, int], content_kind: str) -> Iterator[Light]:
    most, least = max(counts.values()), min(counts.values())
    if most > _UNEVEN * least:
        yield Light(
            "imbalance",
            "yellow",
            f"the most frequent label has {most} train rows, the rarest {least}: accuracy alone says little",
            len(counts),
            (),
            _BALANCED.get(content_kind, ""),
        )


def spelling(counts: Mapping[str, int], first: Mapping[str, Place]) -> Iterator[Light]:
    """One label in several spellings.

    Args:
        counts: rows of each label.
        first: where the first of them stands.
    """
    groups = variants(counts)
    if groups:
        shown = [
            " = ".join(f"{label!r} ({counts[label]}, first {first[label]})" for label in group) for group in groups
        ]
        yield Light(
            "label spelling",
            "red",
            f"{len(groups)} labels seem to be written in several ways, which the model would have to tell apart",
            len(groups),
            tuple(shown[:EXAMPLES]),
            "write each label in one way",
        )


def _empty(counts: Mapping[str, int], first: Mapping[str, Place]) -> Iterator[Light]:
    odd = [label for label in counts if label.strip().casefold() in _EMPTY]
    if odd:
        yield Light(
            "labels for an empty cell",
            "yellow",
            f"{', '.join(map(repr, odd))} is learned as a label like any other; often it is written where none is known",
            sum(counts[label] for label in odd),
            tuple(f"{label!r} ({counts[label]}, first {first[label]})" for label in odd[:EXAMPLES]),
            "remove the rows, unless this is a class that is meant",
        )


def plain_label(label: str) -> str:
    """What is left where case, width, spaces, signs and small kana do not count.

    >>> plain_label("Credit-Card") == plain_label("ｃｒｅｄｉｔ card")
    True
    """
    text = unicodedata.normalize("NFKC", label).casefold().translate(_KATAKANA_SIZES)
    return "".join(ch for ch in text if ch.isalnum() or ch == "ー")


def variants(counts: Mapping[str, int]) -> list[list[str]]:
    """Groups of labels that are probably one, each with the most frequent spelling first."""
    by_form: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        by_form[plain_label(label)].append(label)
    groups = [group for form, group in by_form.items() if form and len(group) > 1]
    groups += [list(pair) for pair in _slips(counts)]
    return [sorted(group, key=lambda label: (-counts[label], label)) for group in groups]


def _slips(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    ordered = sorted(counts, key=lambda label: counts[label])
    forms = {label: plain_label(label) for label in ordered}
    found = []
    for at, rare in enumerate(ordered):
        if len(rare) < _SHORT:
            continue
        for usual in ordered[at + 1 :]:
            # The quick questions first: of ten thousand labels there are fifty million pairs.
            if counts[rare] > _RARE * counts[usual] or abs(len(rare) - len(usual)) > 1 or forms[rare] == forms[usual]:
                continue
            if one_letter_apart(rare, usual) and _no_number_changes(rare, usual):
                found.append((usual, rare))
                break
    return found


def one_letter_apart(one: str, other: str) -> bool:
    """Whether one insertion, deletion, substitution or swap of neighbours makes one of the other.

    >>> one_letter_apart("billing", "biling"), one_letter_apart("billing", "bililng"), one_letter_apart("a", "abc")
    (True, True, False)
    """
    if one == other or abs(len(one) - len(other)) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    a, b = one[start:], other[start:]
    return a[1:] == b or a == b[1:] or a[1:] == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])


def _no_number_changes(one: str, other: str) -> bool:
    """`v1` and `v2` are two labels."""
    return [ch for ch in one if ch.isdecimal()] == [ch for ch in other if ch.isdecimal()]
