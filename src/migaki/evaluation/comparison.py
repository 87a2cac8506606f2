"""Several methods judged on the same rows: their figures over rows and seeds, and which of them cannot be told apart."""

# Shapes: S seeds, N rows, B resamples

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from migaki.core.seeds import generator
from migaki.core.types import Measure

__all__ = ["Outcomes", "difference", "groups", "holm", "mcnemar", "measure"]

_RESAMPLES = 4000
_AT_ONCE = 500
ALPHA = 0.05


@dataclass(frozen=True)
class Outcomes:
    """What one method did on each row: a figure is sum(gained) / sum(weight)."""

    gained_SN: np.ndarray
    """For accuracy 1 where the row is right; for the token loss the sum of its losses; for F1 twice its hits."""
    weights: np.ndarray
    """For accuracy 1, for the token loss the number of its target tokens, (N,) for every seed and method; for F1 what is
    wanted and what was found, which differs, (S, N)."""

    @property
    def weight_SN(self) -> np.ndarray:  # noqa: N802 - its axes
        return np.broadcast_to(self.weights, self.gained_SN.shape)

    @classmethod
    def of(cls, seeds: Sequence[Sequence[float]], weights: Sequence[float] | Sequence[Sequence[float]]) -> Outcomes:
        return cls(np.array(seeds, dtype=np.float64), np.array(weights, dtype=np.float64))

    @property
    def value(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.seeds))

    @property
    def seeds(self) -> list[float]:
        """The figure of each seed."""
        return [float(x) for x in _quotient(self.gained_SN.sum(1), self.weight_SN.sum(1))]

    def is_share(self) -> bool:
        return bool((self.weights == 1).all() and np.isin(self.gained_SN, (0, 1)).all())


def _quotient(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    # Where nothing is wanted and nothing was found there is no figure; 0, as in the metrics.
    return np.asarray(above / np.where(below > 0, below, 1.0))


def _resampled(outcomes: Sequence[Outcomes], seed: int) -> np.ndarray:
    """The figure of each method in each resample, (M, B): the same rows for all of them, seeds drawn for each alone."""
    n = outcomes[0].gained_SN.shape[1]
    randomness = generator(seed, "comparison", n)
    found = np.empty((len(outcomes), _RESAMPLES))
    for at in range(0, _RESAMPLES, _AT_ONCE):
        rows_BN = randomness.multinomial(n, np.full(n, 1 / n), size=_AT_ONCE).astype(np.float64)
        for m, one in enumerate(outcomes):
            n_seeds = len(one.gained_SN)
            figures_BS = _quotient(rows_BN @ one.gained_SN.T, rows_BN @ one.weight_SN.T)
            seeds_BS = randomness.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=_AT_ONCE) / n_seeds
            found[m, at : at + _AT_ONCE] = (figures_BS * seeds_BS).sum(1)
    return found


def measure(outcomes: Outcomes, seed: int) -> Measure:
    """The figure with the middle 95 % of its bootstrap over rows and seeds.

    Source: Davison & Hinkley 1997, Bootstrap Methods and their Application, section 3.8 (two levels).
    """
    from migaki.evaluation.intervals import percentiles

    return percentiles(
        outcomes.value, _resampled([outcomes], seed)[0], outcomes.gained_SN.shape[1], outcomes.is_share()
    )


def mcnemar(a_N: np.ndarray, b_N: np.ndarray) -> float:
    """Exact two-sided p-value that two models are right equally often, both judged on the same rows (booleans).

    Source: McNemar 1947, doi:10.1007/BF02295996, with the binomial instead of the normal distribution.

    >>> a, b = np.repeat([1, 1, 0], [5, 6, 1]), np.repeat([1, 0, 1], [5, 6, 1])
    >>> mcnemar(a, b)  # 6 against 1 of 7: 2 (C(7,0) + C(7,1)) / 2^7
    0.125
    """
    a_N, b_N = np.asarray(a_N, dtype=bool), np.asarray(b_N, dtype=bool)
    only_a, only_b = int((a_N & ~b_N).sum()), int((b_N & ~a_N).sum())
    n, k = only_a + only_b, min(only_a, only_b)
    return float(min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n))


def difference(a: Outcomes, b: Outcomes, seed: int) -> tuple[Measure, float]:
    """a minus b with its interval, and the two-sided p-value that they are the same.

    Exact McNemar for accuracies of one seed each; otherwise the paired bootstrap over rows and seeds.
    """
    figures_MB = _resampled([a, b], seed)
    gap_B = figures_MB[0] - figures_MB[1]
    low, high = (float(bound) for bound in np.percentile(gap_B, [2.5, 97.5]))
    value = a.value - b.value
    found = Measure(value, min(low, value), max(high, value), a.gained_SN.shape[1])
    if a.is_share() and b.is_share() and len(a.gained_SN) == len(b.gained_SN) == 1:
        return found, mcnemar(a.gained_SN[0], b.gained_SN[0])
    alike = (a.gained_SN.mean(0) == b.gained_SN.mean(0)).all() and (a.weight_SN.mean(0) == b.weight_SN.mean(0)).all()
    if alike:
        return found, 1.0
    # The share of resamples on the other side of nothing, each side counted once more than seen (Davison & Hinkley, 4.2).
    tail = min((gap_B <= 0).sum(), (gap_B >= 0).sum())
    return found, float(min(1.0, 2 * (tail + 1) / (_RESAMPLES + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: so many comparisons find a difference by chance less often than one would.

    Source: Holm 1979, Scand. J. Stat. 6, 65-70.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def groups(methods: Mapping[str, Outcomes], better: str, seed: int) -> list[list[str]]:
    """Methods that cannot be told apart, the best group first and in each the best method.

    A group is its best method and all that are not worse beyond chance (paired test against it, Holm over the
    methods); then the same again with what is left.
    """
    sign = 1 if better == "max" else -1
    left = sorted(methods, key=lambda name: -sign * methods[name].value)
    found: list[list[str]] = []
    while left:
        best, *others = left
        p_values = holm([difference(methods[best], methods[name], seed)[1] for name in others])
        alike = [name for name, p in zip(others, p_values, strict=True) if p > ALPHA]
        found.append([best, *alike])
        left = [name for name in others if name not in alike]
    return found
