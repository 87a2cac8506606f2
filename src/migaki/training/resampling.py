"""Which rows an epoch visits where labels are evened out: rare ones more than once, frequent ones in turn."""

# Shapes: N rows, C labels, Q rows drawn of one label

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from migaki.core.seeds import generator

__all__ = ["quotas", "resampled"]


def resampled(labels: Sequence[str], evenness: float, seed: int, epoch: int) -> np.ndarray:
    """Row numbers of an epoch, (N,) int64, as many as there are rows, label after label: a function of its arguments alone.

    Each label is visited as often as `quotas` says, the same in every epoch. Its rows come in turn: each one k times before
    any comes k + 1 times, counted over all epochs, and in an order drawn anew for each turn. So nothing of a frequent label
    is left out for good, as it would be where rows were thrown away once.

    Args:
        labels: of the N rows.
        evenness: 0..1, see `quotas`.
        seed: of the order.
        epoch: counted from 0.
    """
    names, label_N = np.unique(np.asarray(labels), return_inverse=True)
    quota_C = quotas(np.bincount(label_N), evenness)
    drawn = [
        np.flatnonzero(label_N == c)[_in_turn(int((label_N == c).sum()), int(quota), seed, str(names[c]), epoch)]
        for c, quota in enumerate(quota_C)
    ]
    return np.concatenate(drawn)


def quotas(count_C: np.ndarray, evenness: float) -> np.ndarray:
    """Rows of each label in an epoch, (C,), in proportion to count^(1 - evenness); they add up to the number of rows.

    Largest remainders are rounded up, of equal ones those of the first labels; every label gets a row.

    >>> quotas(np.array([80, 20]), 0.0), quotas(np.array([80, 20]), 1.0), quotas(np.array([80, 20]), 0.5)
    (array([80, 20]), array([50, 50]), array([67, 33]))
    """
    share_C = count_C.astype(np.float64) ** (1 - evenness)
    exact_C = count_C.sum() * share_C / share_C.sum()
    quota_C = np.floor(exact_C).astype(np.int64)
    order = np.argsort(quota_C - exact_C, kind="stable")
    quota_C[order[: count_C.sum() - quota_C.sum()]] += 1
    for c in np.flatnonzero(quota_C == 0):
        quota_C[quota_C.argmax()] -= 1
        quota_C[c] = 1
    return np.asarray(quota_C)


def _in_turn(n: int, quota: int, seed: int, name: str, epoch: int) -> np.ndarray:
    """The part of an endless line of permutations of n rows that epoch `epoch` stands for, (Q,)."""
    begin, end = epoch * quota, (epoch + 1) * quota
    turns = range(begin // n, -(-end // n))
    line = np.concatenate([generator(seed, "turn", name, turn).permutation(n) for turn in turns])
    part: np.ndarray = line[begin - turns.start * n : end - turns.start * n]
    return part
