"""How small a difference a test split can show."""

from __future__ import annotations

import math

__all__ = ["smallest_difference"]

_Z_ALPHA, _Z_BETA = 1.959964, 0.841621
"""Two-sided 5 % and 80 % power."""


def smallest_difference(n: int, discordant: float = 0.1) -> float:
    """The difference of two accuracies, measured on the same n rows, that a McNemar test finds in four of five cases.

    Args:
        n: test rows.
        discordant: share of the rows that just one of the two models gets right; a tenth is usual for tuned models.
    Returns:
        between 0 and `discordant`, which it cannot exceed; infinity where even that is not found.
    Source: Connor 1987, "Sample size for testing differences in proportions for the paired-sample design", Biometrics 43.

    >>> round(smallest_difference(1050), 3), round(smallest_difference(204), 3)
    (0.027, 0.062)
    """

    def rows_needed(difference: float) -> float:
        spread = _Z_ALPHA * math.sqrt(discordant) + _Z_BETA * math.sqrt(discordant - difference**2)
        return (spread / difference) ** 2

    if rows_needed(discordant) > n:
        return math.inf
    low, high = 1e-6, discordant
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rows_needed(middle) > n else (low, middle)
    return high
