"""Passages with the ways to find them."""

# Shapes: N passages, Q queries, D features

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from migaki.retrieval.dense import DenseIndex
from migaki.retrieval.fusion import fused
from migaki.retrieval.passages import Passage
from migaki.retrieval.sparse import SparseIndex

__all__ = ["Hit", "Index", "Way"]

Way = Literal["sparse", "dense", "hybrid"]

_FUSED = 100
"""Places of each ranking that are fused; what stands behind them could move up by less than 1/160."""
_COMPARED_AT_ONCE = 1 << 24
"""Similarities in memory at a time."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found."""

    number: int
    """Of the passage in its index."""
    similarity: float | None = None
    """Cosine with the query's vector, -1..1; None where passages are found by words alone."""


class Index:
    """Search by words (BM25), by vectors (cosine similarity), or by both (reciprocal-rank fusion).

    >>> from migaki.core.types import Place
    >>> index = Index([Passage(Place("a.txt", 1), "a black printer"), Passage(Place("a.txt", 3), "返品の方法")], "sparse")
    >>> [hit.number for hit in index.search(["返品したい"], None, 3)[0]]
    [1]
    """

    def __init__(self, passages: Sequence[Passage], way: Way, vectors_ND: np.ndarray | None = None) -> None:
        """`vectors_ND`, at length 1, stand for the passages in their order; not needed where `way` is sparse."""
        self.passages = tuple(passages)
        self.way = way
        self._sparse = SparseIndex([p.searched for p in self.passages]) if way != "dense" else None
        self.vectors_ND = vectors_ND if way != "sparse" else None
        self._dense = None if self.vectors_ND is None else DenseIndex(self.vectors_ND)

    def search(
        self,
        queries: Sequence[str],
        queries_QD: np.ndarray | None,
        count: int,
        barred: Sequence[Collection[int]] | None = None,
    ) -> list[list[Hit]]:
        """The best `count` passages for each query, best first; fewer where fewer share a word with it.

        Equal scores are ordered by number.

        Args:
            queries_QD: their vectors; None where `way` is sparse.
            barred: for each query the passages that it must not find.
        """
        barred = barred if barred is not None else [()] * len(queries)
        found: list[list[Hit]] = []
        at_once = max(1, _COMPARED_AT_ONCE // max(len(self.passages), 1))
        for at in range(0, len(queries), at_once):
            part = slice(at, at + at_once)
            similar_QN = None
            if self._dense is not None:
                assert queries_QD is not None
                similar_QN = self._dense.similarities(queries_QD[part])
            for i, (query, out) in enumerate(zip(queries[part], barred[part], strict=True)):
                found.append(self._one(query, None if similar_QN is None else similar_QN[i], count, out))
        return found

    def _one(self, query: str, similar_N: np.ndarray | None, count: int, barred: Collection[int]) -> list[Hit]:
        rankings = [] if similar_N is None else [_best(similar_N, max(count, _FUSED), barred)]
        if self._sparse is not None:
            scores_N = self._sparse.scores(query)
            scores_N[scores_N <= 0] = -np.inf  # no word in common is no hit
            rankings.append(_best(scores_N, max(count, _FUSED), barred))
        numbers = rankings[0] if len(rankings) == 1 else [number for number, _ in fused(rankings)]
        return [Hit(i, None if similar_N is None else float(similar_N[i])) for i in numbers[:count]]


def _best(scores_N: np.ndarray, count: int, barred: Collection[int]) -> list[int]:
    """Numbers of the highest scores, highest first, equal ones by number; neither barred ones nor what scores -inf."""
    scores_N = scores_N.copy()
    scores_N[list(barred)] = -np.inf
    n = min(count, len(scores_N))
    if not n:
        return []
    least = np.partition(scores_N, len(scores_N) - n)[len(scores_N) - n]
    candidates = np.flatnonzero((scores_N >= least) & (scores_N > -np.inf))
    order = np.argsort(-scores_N[candidates], kind="stable")[:n]
    return [int(i) for i in candidates[order]]
