"""95 % intervals: score intervals for proportions and their difference, the percentile bootstrap over rows for the rest."""

# Shapes: N rows, S resamples

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from migaki.core.seeds import generator
from migaki.core.types import Measure

__all__ = ["bootstrap", "paired_difference", "percentiles", "proportion", "resample_weights", "wilson"]

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
    # At no or only successes the bound is 0 or 1 itself; rounding must not leave 1e-17 there.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return low, 1.0 if successes == n else min(1.0, centre + half)


def proportion(successes: int, n: int) -> Measure:
    """A share with its Wilson interval."""
    low, high = wilson(successes, n)
    return Measure(successes / n, low, high, n)


def paired_difference(before_N: np.ndarray, after_N: np.ndarray) -> Measure:
    """Share of hits after minus share before, both on the same rows (booleans); stays right for few rows.

    Two intervals that overlap say little here: rows that are easy for both models make both shares uncertain, but not
    their difference.

    Raises:
        ValueError: no rows.
    Source: Newcombe 1998, Stat. Med. 17, 2635-2650, method 10.

    >>> after, before = np.repeat([1, 1, 0], [36, 12, 2]), np.repeat([1, 0, 1], [36, 12, 2])
    >>> gain = paired_difference(before, after)
    >>> round(gain.value, 4), round(gain.low, 4), round(gain.high, 4)
    (0.2, 0.0569, 0.3404)
    """
    before_N, after_N = np.asarray(before_N, dtype=bool), np.asarray(after_N, dtype=bool)
    n = len(after_N)
    both, neither = int((before_N & after_N).sum()), int((~before_N & ~after_N).sum())
    gained, lost = int((after_N & ~before_N).sum()), int((before_N & ~after_N).sum())
    after, before = both + gained, both + lost
    (after_low, after_high), (before_low, before_high) = wilson(after, n), wilson(before, n)
    agreement: float = both * neither - gained * lost
    if agreement > 0:
        agreement = max(agreement - n / 2, 0)
    correlation = agreement / (math.sqrt(after * (n - after) * before * (n - before)) or 1.0)

    def reach(a: float, b: float) -> float:
        # Rounding can leave -1e-18 where the two models answer alike.
        return math.sqrt(max(a * a - 2 * correlation * a * b + b * b, 0.0))

    value = (after - before) / n
    low = value - reach(after / n - after_low, before_high - before / n)
    high = value + reach(before / n - before_low, after_high - after / n)
    return Measure(value, low, high, n)


def resample_weights(n: int, seed: int) -> np.ndarray:
    """How often each row is drawn in each resample, (S, N) float64; every line sums to n."""
    return generator(seed, "bootstrap", n).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)


def bootstrap(
    values_N: np.ndarray, seed: int, statistic: Callable[[np.ndarray], np.ndarray], share: bool = False
) -> Measure:
    """A figure with its percentile-bootstrap interval over rows.

    Args:
        values_N: only its length counts here; `statistic` closes over the values.
        statistic: from row weights (K, N) to K figures; called with all ones for the figure itself.
        share: whether the figure lies in 0..1.
    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    n = len(values_N)
    if n == 0:
        raise ValueError("a figure needs at least one row")
    return percentiles(float(statistic(np.ones((1, n)))[0]), statistic(resample_weights(n, seed)), n, share)


def percentiles(value: float, figures_S: np.ndarray, n: int, share: bool = False) -> Measure:
    """The figure with the middle 95 % of its resampled values.

    A share of exactly 0 or 1 in every resample would look certain even for two rows; it gets the interval of a
    proportion of n rows that never, or always, came true.
    """
    low, high = (float(bound) for bound in np.percentile(figures_S, [2.5, 97.5]))
    if share and low == high == value and value in (0.0, 1.0):
        return proportion(round(value * n), n)
    # A percentile of a skewed figure may miss the figure itself by a rounding; an interval that excludes it misleads.
    return Measure(value, min(low, value), max(high, value), n)
