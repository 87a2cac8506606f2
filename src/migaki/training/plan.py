"""Which rows are computed together: groups of similar length, so that almost nothing is padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from migaki.core.seeds import permutation

__all__ = ["FLAT_PADDING_COST", "epoch_steps", "pad", "step_rows", "token_groups"]

GROUP_TOKENS = 8192
"""Padded tokens computed at once: bounds the memory, whatever the longest row."""

_GROUP_COST = 96
"""What starting one more group costs, in tokens' worth of work (measured on small encoders on a CPU)."""


FLAT_PADDING_COST = 0.2
"""What a token of padding costs where only attention sees it, in tokens' worth of work."""

_GROUP_ROWS = 256
"""More rows at once gain nothing, and planning stays quick for a hundred thousand rows."""


def epoch_steps(n_rows: int, batch_size: int) -> int:
    """Optimiser steps in one epoch; the last one may be smaller, and no row is left out."""
    return -(-n_rows // batch_size)


def step_rows(n_rows: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Row numbers of optimiser step `step` (counted from 0 over all epochs): a function of its arguments alone."""
    epoch, position = divmod(step, epoch_steps(n_rows, batch_size))
    return permutation(n_rows, seed, epoch)[position * batch_size : (position + 1) * batch_size]


def token_groups(
    lengths: Sequence[int], max_tokens: int = GROUP_TOKENS, max_rows: int | None = None, padding_cost: float = 1.0
) -> list[list[int]]:
    """Split rows into groups of similar length that cost least to compute, longest first.

    The cost of a group is its size plus a constant for starting it; the cheapest split of the length-sorted rows is
    found by dynamic programming. A row longer than `max_tokens` has a group of its own.

    Args:
        lengths: tokens of each row.
        max_tokens: the largest size of a group of several rows.
        max_rows: the most rows in a group.
        padding_cost: what a token of padding counts, in tokens: 1 where it is computed like any other, less where only
            attention sees it.

    >>> token_groups([3, 500, 4, 498])
    [[1, 3], [2, 0]]
    >>> token_groups([3, 500, 4, 498], padding_cost=0)
    [[1, 3, 2, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    n = len(order)
    length_n = np.array([lengths[i] for i in order], dtype=np.int64)
    before_n = np.concatenate([[0], np.cumsum(length_n)])
    cost_n, start = np.zeros(n + 1), [0] * (n + 1)
    rows_c = np.arange(1, min(n, max_rows or _GROUP_ROWS) + 1)
    for end in range(1, n + 1):
        # Candidates for the first row, from the nearest on. Lengths fall, so it is the longest and sets the width.
        there = slice(max(0, end - len(rows_c)), end)
        tokens_c = before_n[end] - before_n[there][::-1]
        size_c = tokens_c + padding_cost * (rows_c[: len(tokens_c)] * length_n[there][::-1] - tokens_c)
        # Sizes rise with each further row, so those that fit stand in front; a row alone always does.
        n_fitting = max(1, int(size_c.searchsorted(max_tokens, side="right")))
        costs_c = (cost_n[there][::-1] + size_c + _GROUP_COST)[:n_fitting]
        best = int(costs_c.argmin())
        cost_n[end], start[end] = costs_c[best], end - 1 - best
    groups, end = [], n
    while end:
        groups.append(order[start[end] : end])
        end = start[end]
    return groups[::-1]


def pad(
    ids: Sequence[Sequence[int]], fill: int, device: torch.device, left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask, both (B, T) int64, filled on the right unless `left`."""
    width = max(len(row) for row in ids)
    ids_BT, mask_BT = np.full((len(ids), width), fill, dtype=np.int64), np.zeros((len(ids), width), dtype=np.int64)
    for i, row in enumerate(ids):
        at = slice(width - len(row), width) if left else slice(0, len(row))
        ids_BT[i, at], mask_BT[i, at] = row, 1
    return torch.from_numpy(ids_BT).to(device), torch.from_numpy(mask_BT).to(device)
