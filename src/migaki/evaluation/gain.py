"""How much a figure changed from base to tuned model, judged on the same rows."""

from __future__ import annotations

import numpy as np

from migaki.core.types import Evaluation, Measure
from migaki.evaluation.intervals import bootstrap, paired_difference

__all__ = ["gain"]


def gain(before: Evaluation, after: Evaluation, metric: str, seed: int) -> Measure:
    """The metric after minus before, with an interval that uses that both were measured on the same rows.

    Rows are compared one by one for accuracy (Newcombe's score interval), loss and ratios of sums such as F1 (bootstrap
    over rows). A metric of a plug-in has no figure for each row; its interval runs between the far ends of the two, which is too wide, never too
    narrow.
    """
    a, b = after.predictions, before.predictions
    if metric == "accuracy":
        return paired_difference(
            np.array([p.output == p.target for p in b]), np.array([p.output == p.target for p in a])
        )
    if metric == "loss":
        change_N = np.array([new.loss for new in a], dtype=np.float64) - np.array([old.loss for old in b])
        targets_N = np.array([p.targets for p in a], dtype=np.float64)
        return bootstrap(change_N, seed, lambda weights_KN: (weights_KN @ change_N) / (weights_KN @ targets_N))
    if all(p.part is not None for p in (*a, *b)):
        new_N2, old_N2 = (np.array([p.part for p in some], dtype=np.float64) for some in (a, b))
        return bootstrap(new_N2, seed, lambda w_KN: _quotient(w_KN @ new_N2) - _quotient(w_KN @ old_N2))
    new, old = after.metrics[metric], before.metrics[metric]
    return Measure(new.value - old.value, new.low - old.high, new.high - old.low, new.n)


def _quotient(sums_K2: np.ndarray) -> np.ndarray:
    return np.asarray(sums_K2[:, 0] / np.where(sums_K2[:, 1] > 0, sums_K2[:, 1], 1.0))
