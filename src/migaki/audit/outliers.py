"""Rows that are unlike all others of their label, by the features of the model."""

# Shapes: N rows, D features

from __future__ import annotations

import numpy as np

__all__ = ["outlying"]

_FAR = 6.0
"""Median absolute deviations, scaled to the standard deviation of a normal distribution, beyond the median."""
_FEWEST = 10
"""Rows of a label from which on a spread can be told."""


def outlying(features_ND: np.ndarray, label_N: np.ndarray) -> list[int]:
    """Numbers of the rows that lie far from the mean of their label, the farthest first.

    The distance of a row is that to the mean of the other rows of its label. Far is a distance more than six times the
    spread above the median of the label's distances, both taken robustly, so that one odd row does not hide another.
    Labels with fewer than ten rows are not looked at.

    Args:
        features_ND: of the rows, in any unit.
        label_N: the label of each, as a number.
    Source: Leys et al. 2013, "Detecting outliers: do not use standard deviation around the mean", J. Exp. Soc. Psychol. 49.
    """
    far: list[tuple[float, int]] = []
    for label in np.unique(label_N):
        rows = np.flatnonzero(label_N == label)
        if len(rows) < _FEWEST:
            continue
        x_ND = features_ND[rows].astype(np.float64)
        # From the mean m of all n rows, that of the others is (n m - x) / (n - 1): the distance to it is n / (n - 1) as far.
        distance_N = np.linalg.norm(x_ND - x_ND.mean(0), axis=1) * (len(rows) / (len(rows) - 1))
        median = float(np.median(distance_N))
        spread = 1.4826 * float(np.median(np.abs(distance_N - median)))
        if spread > 0:
            beyond_N = (distance_N - median) / spread
            far += [(float(beyond), int(row)) for beyond, row in zip(beyond_N, rows, strict=True) if beyond > _FAR]
    return [row for _, row in sorted(far, key=lambda pair: (-pair[0], pair[1]))]
