"""Whether what is right was found at all, apart from whether it was answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from migaki.core.types import Prediction
from migaki.evaluation.intervals import proportion

__all__ = ["recall_at"]

_RANKS = (1, 3, 5, 10)


def recall_at(predictions: Sequence[Prediction]) -> dict[str, Any] | None:
    """Share of rows for which at least one right passage or neighbour is among the first k, with Wilson intervals.

    Right is, in classification, a training row of the row's label; in generation a passage that holds the wanted answer
    word for word. Also called success at k: where just one thing is right for a row, it is the recall.

    Returns:
        {"1": figure, "3": ..., "5": ..., "10": ...}, JSON-able; None where a row was not looked up.

    >>> from migaki.core.types import Place
    >>> found = recall_at([Prediction(Place("r", i), "", found_at=rank) for i, rank in enumerate((1, 4, 0, 1), 1)])
    >>> [found[k]["value"] for k in ("1", "3", "5", "10")]
    [0.5, 0.5, 0.75, 0.75]
    """
    ranks = [p.found_at for p in predictions if p.found_at is not None]
    if not ranks or len(ranks) < len(predictions):
        return None
    return {str(k): proportion(sum(0 < rank <= k for rank in ranks), len(ranks)).as_json() for k in _RANKS}
