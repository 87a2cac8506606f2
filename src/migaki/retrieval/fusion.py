"""One ranking out of several, whatever their scores mean."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["fused"]

_K = 60
"""The constant of the paper: how little the first places count more than those after them."""


def fused(rankings: Sequence[Sequence[int]]) -> list[tuple[int, float]]:
    """Reciprocal-rank fusion: what stands at place r of a ranking gets 1 / (60 + r) from it; the highest sum first.

    Equal sums are ordered by number.

    Source: Cormack, Clarke & Büttcher 2009, SIGIR '09, 758-759.

    >>> [(number, round(score, 6)) for number, score in fused([[7, 5], [5]])]  # 1/62 + 1/61, and 1/61
    [(5, 0.032522), (7, 0.016393)]
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, number in enumerate(ranking, 1):
            scores[number] = scores.get(number, 0.0) + 1 / (_K + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
