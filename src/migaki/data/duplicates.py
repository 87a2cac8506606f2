"""Texts that are almost the same: found by MinHash on character 3-grams, then compared exactly.

Two texts are near duplicates where their sets of 3-grams overlap by the given share (Jaccard). Source: Broder 1997, "On
the resemblance and containment of documents"; banding as in Leskovec et al., Mining of Massive Datasets, 3.4.
"""

# Shapes: N texts, G 3-grams of all texts in line, H hash functions

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

__all__ = ["clusters", "compared_form", "copy_form", "jaccard", "near_pairs"]

_GRAM = 3
_HASHES, _BAND = 128, 4
"""32 bands of 4: a pair with Jaccard 0.8 is missed once in ten million and one with 0.7 once in seven thousand, while
one with 0.2 is looked at once in twenty."""
_PRIME = (1 << 31) - 1
_AT_ONCE = 1 << 16
_LARGEST_BUCKET = 200
"""Of texts that all fall into one bucket each is compared with so many before it: a million copies stay a short work."""


def compared_form(text: str) -> str:
    """What counts when texts are compared: NFKC, lower case, single spaces.

    >>> compared_form("ＡＢＣ  ｶﾞ\\n")
    'abc ガ'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def copy_form(key: str) -> str:
    """What copies of a row have in common: the key of its content, its case, width and spaces aside.

    >>> copy_form("Ａ  b\x1fC") == copy_form("a B\x1fc"), copy_form("a\x1fb") == copy_form("a b")
    (True, False)
    """
    # The separator of two texts counts as a space for str.split, but it is what tells ("a", "b c") from ("a b", "c").
    return "\x1f".join(map(compared_form, key.split("\x1f")))


def _grams(text: str) -> set[str]:
    padded = f" {compared_form(text)} "
    return {padded[i : i + _GRAM] for i in range(max(len(padded) - _GRAM + 1, 1))}


def jaccard(one: str, other: str) -> float:
    """Shared 3-grams by all 3-grams of two texts, 0..1.

    >>> jaccard("abc", "abc"), jaccard("abc", "xyz")
    (1.0, 0.0)
    """
    a, b = _grams(one), _grams(other)
    return len(a & b) / len(a | b)


def near_pairs(texts: Sequence[str], threshold: float) -> list[tuple[int, int, float]]:
    """Pairs (i, j, Jaccard) with i < j and a Jaccard of at least `threshold`, in order.

    Of many equal texts each is paired with the first one only.

    Args:
        texts: N texts.
        threshold: 0..1; below 0.7 pairs may be missed.
    """
    first: dict[str, int] = {}
    twins, distinct = [], []
    for number, text in enumerate(texts):
        form = compared_form(text)
        earlier = first.setdefault(form, number)
        if earlier == number:
            distinct.append(number)
        else:
            twins.append((earlier, number, 1.0))
    grams = [_grams(texts[i]) for i in distinct]
    found = []
    for a, b in _candidates(grams):
        share = len(grams[a] & grams[b]) / len(grams[a] | grams[b])
        if share >= threshold:
            found.append((distinct[a], distinct[b], share))
    return sorted([*found, *twins])


def clusters(n: int, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """For each of n items the number of the first item that it hangs together with, (N,).

    >>> clusters(4, [(1, 3), (0, 3)]).tolist()
    [0, 0, 2, 0]
    """
    root = list(range(n))

    def top(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for a, b in pairs:
        low, high = sorted((top(a), top(b)))
        root[high] = low
    return np.array([top(i) for i in range(n)], dtype=np.int64)


def _candidates(grams: Sequence[set[str]]) -> Iterator[tuple[int, int]]:
    """Pairs of texts with an equal band of minima."""
    if not grams:
        return
    minima_NH = _minima(grams)
    seen: set[tuple[int, int]] = set()
    for at in range(0, _HASHES, _BAND):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for number, band in enumerate(np.ascontiguousarray(minima_NH[:, at : at + _BAND])):
            bucket = buckets[band.tobytes()]
            for other in bucket[:_LARGEST_BUCKET]:
                if (other, number) not in seen:
                    seen.add((other, number))
                    yield other, number
            bucket.append(number)


def _minima(grams: Sequence[set[str]]) -> np.ndarray:
    """The smallest value of each hash function over the 3-grams of each text, (N, H)."""
    number_of: dict[str, int] = {}
    line_G = np.array(
        [number_of.setdefault(g, len(number_of)) for found in grams for g in sorted(found)], dtype=np.int64
    )
    starts_N = np.cumsum([0, *map(len, grams)])
    dice = np.random.default_rng(0)
    # Universal hashing (Carter and Wegman 1979) of numbers drawn at random; products stay below 2^62, so nothing overflows.
    numbers_V = dice.integers(0, _PRIME, max(len(number_of), 1), dtype=np.int64)
    a_H, b_H = dice.integers(1, _PRIME, _HASHES, dtype=np.int64), dice.integers(0, _PRIME, _HASHES, dtype=np.int64)
    values_VH = ((numbers_V[:, None] * a_H + b_H) % _PRIME).astype(np.int32)
    found_NH = np.empty((len(grams), _HASHES), dtype=np.int32)
    at = 0
    while at < len(grams):
        end = int(np.searchsorted(starts_N, starts_N[at] + _AT_ONCE, side="right")) - 1
        end = max(end, at + 1)
        some_GH = values_VH[line_G[starts_N[at] : starts_N[end]]]
        found_NH[at:end] = np.minimum.reduceat(some_GH, starts_N[at:end] - starts_N[at], axis=0)
        at = end
    return found_NH
