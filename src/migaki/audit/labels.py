"""Labels that are rare, uneven, or one label written in two ways."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Mapping

__all__ = ["one_letter_apart", "plain_label", "variants"]

_KATAKANA_SIZES = str.maketrans("ァィゥェォッャュョヮ", "アイウエオツヤユヨワ")
_SHORT = 4
_RARE = 0.1
"""Of two labels one letter apart the rarer one is taken for a slip where it has at most this share of the other's rows:
`group_1` and `group_2` are both meant."""


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
    found = []
    for at, rare in enumerate(ordered):
        if len(rare) < _SHORT:
            continue
        for usual in ordered[at + 1 :]:
            if plain_label(rare) == plain_label(usual) or counts[rare] > _RARE * counts[usual]:
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
