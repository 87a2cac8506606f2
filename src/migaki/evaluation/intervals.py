"""95 % intervals: Wilson's for proportions, the percentile bootstrap over rows for everything else."""

# Shapes: N rows, S resamples

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from migaki.core.seeds import generator
from migaki.core.types import Measure

__all__ = ["bootstrap", "proportion", "resample_weights", "wilson"]

RESAMPLES = 1000
_Z = 1.959963984540054
"""The normal quantile at 0.975."""


def wilson(successes: float, n: int, z: float = _Z) -> tuple[float, float]:
    """Interval of a proportion that stays right near 0 and 1 and for few rows.

    Raises:
        ValueError: n is not positive: no rows have no proportion.
    Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209-212.

    >>> [round(bound, 4) for bound in wilson(8, 10)]
    [0.4902, 0.9433]
    """
    if n <= 0:
        raise ValueError("a proportion needs at least one row")
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def proportion(successes: int, n: int) -> Measure:
    """A share with its Wilson interval."""
    low, high = wilson(successes, n)
    return Measure(successes / n, low, high, n)


def resample_weights(n: int, seed: int) -> np.ndarray:
    """How often each row is drawn in each resample, (S, N) float64; every line sums to n."""
    return generator(seed, "bootstrap", n).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)


def bootstrap(values_N: np.ndarray, seed: int, statistic: Callable[[np.ndarray], np.ndarray]) -> Measure:
    """A figure with its percentile-bootstrap interval over rows.

    Args:
        values_N: only its length counts here; `statistic` closes over the values.
        statistic: from row weights (K, N) to K figures; called with all ones for the figure itself.
    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    n = len(values_N)
    if n == 0:
        raise ValueError("a figure needs at least one row")
    value = float(statistic(np.ones((1, n)))[0])
    low, high = np.percentile(statistic(resample_weights(n, seed)), [2.5, 97.5])
    # A percentile of a skewed figure may miss the figure itself by a rounding; an interval that excludes it misleads.
    return Measure(value, min(float(low), value), max(float(high), value), n)
