"""Texts that are almost the same: found by MinHash on character 3-grams, then compared exactly.

Two texts are near duplicates where their sets of 3-grams overlap by the given share (Jaccard). Source: Broder 1997, "On
the resemblance and containment of documents"; banding as in Leskovec et al., Mining of Massive Datasets, 3.4.
"""

# Shapes: N texts, A texts that come before one of them, G 3-grams of all texts in line, V distinct ones, H hash functions

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

__all__ = ["clusters", "compared_form", "copy_form", "jaccard", "near_earlier", "near_pairs"]

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
    return sorted(
        (earlier, number, share)
        for number, earlier_A, share_A in near_earlier(texts, threshold)
        for earlier, share in zip(earlier_A.tolist(), share_A.tolist(), strict=True)
    )


def near_earlier(texts: Sequence[str], threshold: float) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The pairs of `near_pairs` text by text, so that not all of them are held at once: j, all its i rising (A,), and their
    Jaccard (A,). Texts without a pair are left out; of the others each comes once, in no promised order."""
    first: dict[str, int] = {}
    distinct = []
    for number, text in enumerate(texts):
        earlier = first.setdefault(compared_form(text), number)
        if earlier == number:
            distinct.append(number)
        else:
            yield number, np.array([earlier]), np.ones(1)
    of_distinct = _Grams([texts[i] for i in distinct])
    number_of_N = np.array(distinct, dtype=np.int64)
    for number, earlier_A in _candidates(of_distinct):
        share_A = of_distinct.shares(number, earlier_A)
        near_A = share_A >= threshold
        if near_A.any():
            yield distinct[number], number_of_N[earlier_A[near_A]], share_A[near_A]


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


class _Grams:
    """The sets of 3-grams of N texts, as numbers in one line: sets of strings would take fifty times the memory."""

    def __init__(self, texts: Sequence[str]) -> None:
        number_of: dict[str, int] = {}
        line, ends = array("i"), [0]
        for text in texts:
            line.extend([number_of.setdefault(gram, len(number_of)) for gram in sorted(_grams(text))])
            ends.append(len(line))
        self.line_G = np.frombuffer(line, dtype=np.int32) if line else np.zeros(0, dtype=np.int32)
        self.ends_N = np.array(ends)
        """Where each text begins and the one before it ends."""
        self.sizes_N = np.diff(self.ends_N)
        self.distinct = len(number_of)
        self._of = [self.line_G[start:end] for start, end in pairwise(ends)]
        self._marked_V = np.zeros(self.distinct, dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._of)

    def shares(self, number: int, others_A: np.ndarray) -> np.ndarray:
        """The Jaccard of one text and others, (A,)."""
        sizes_A = self.sizes_N[others_A]
        others_G = np.concatenate([self._of[other] for other in others_A.tolist()])
        self._marked_V[self._of[number]] = 1
        shared_A = np.add.reduceat(self._marked_V[others_G], np.cumsum(sizes_A) - sizes_A, dtype=np.int64)
        self._marked_V[self._of[number]] = 0
        found_A: np.ndarray = shared_A / (sizes_A + self.sizes_N[number] - shared_A)
        return found_A


def _candidates(grams: _Grams) -> Iterator[tuple[int, np.ndarray]]:
    """Each text that has an equal band of minima with earlier ones, and these, rising (A,)."""
    n = len(grams)
    bands = [_Band(minima_N4) for minima_N4 in _minima_by_band(grams)] if n else []
    found_N = np.zeros(n, dtype=bool)
    for number in range(n):
        for band in bands:
            found_N[band.before(number)] = True
        earlier_A = np.flatnonzero(found_N[:number])
        if len(earlier_A):
            found_N[earlier_A] = False
            yield number, earlier_A


class _Band:
    """Which texts are equal in one band of minima."""

    def __init__(self, minima_N4: np.ndarray) -> None:
        high_N, low_N = (
            minima_N4[:, at].astype(np.int64) << 32 | minima_N4[:, at + 1].astype(np.int64) for at in (0, 2)
        )
        # Stable: in each bucket the texts are in order.
        order_N = np.lexsort((low_N, high_N))
        begins_N = np.ones(len(order_N), dtype=bool)
        begins_N[1:] = (np.diff(high_N[order_N]) != 0) | (np.diff(low_N[order_N]) != 0)
        at_N = np.arange(len(order_N))
        starts_N = np.maximum.accumulate(np.where(begins_N, at_N, 0))
        self._order_N = order_N.astype(np.int32)
        self._from, self._to = np.empty((2, len(order_N)), dtype=np.int32)
        self._from[order_N] = starts_N
        self._to[order_N] = np.minimum(at_N, starts_N + _LARGEST_BUCKET)

    def before(self, number: int) -> np.ndarray:
        """The texts in the bucket of this one that come before it, of many the first ones."""
        return self._order_N[self._from[number] : self._to[number]]


def _minima_by_band(grams: _Grams) -> Iterator[np.ndarray]:
    """The smallest value of each hash function over the 3-grams of each text, a band after another, (N, 4)."""
    starts_N, n = grams.ends_N, len(grams)
    dice = np.random.default_rng(0)
    # Universal hashing (Carter and Wegman 1979) of numbers drawn at random; products stay below 2^62, so nothing overflows.
    numbers_V = dice.integers(0, _PRIME, max(grams.distinct, 1), dtype=np.int64)
    a_H, b_H = dice.integers(1, _PRIME, _HASHES, dtype=np.int64), dice.integers(0, _PRIME, _HASHES, dtype=np.int64)
    for first in range(0, _HASHES, _BAND):
        band = slice(first, first + _BAND)
        values_V4 = ((numbers_V[:, None] * a_H[band] + b_H[band]) % _PRIME).astype(np.int32)
        minima_N4 = np.empty((n, _BAND), dtype=np.int32)
        at = 0
        while at < n:
            end = int(np.searchsorted(starts_N, starts_N[at] + _AT_ONCE, side="right")) - 1
            end = max(end, at + 1)
            some_G4 = values_V4[grams.line_G[starts_N[at] : starts_N[end]]]
            minima_N4[at:end] = np.minimum.reduceat(some_G4, starts_N[at:end] - starts_N[at], axis=0)
            at = end
        yield minima_N4
