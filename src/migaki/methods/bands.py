"""The learner of `spectrum`."""

# Shapes: N rows, B bands, S samples, T frames

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from migaki.core.errors import DataError
from migaki.core.types import Row
from migaki.data.audio import read_wave
from migaki.data.bands import BANDS_RATE_HZ, band_levels
from migaki.methods.measured import MeasuredLearner

__all__ = ["BandLearner"]

_SECONDS_CAP = 30.0
"""What is measured at most of a recording, as a model without a limit of its own hears of it."""


class BandLearner(MeasuredLearner):
    """A label for each recording from how loud each band of it is, and how much that changes."""

    name = "spectrum"

    def __init__(
        self, labels: Sequence[str], class_weights: Sequence[float], shares: Sequence[float], bands: int
    ) -> None:
        self._bands = bands
        super().__init__(labels, class_weights, shares)

    def n_numbers(self) -> int:
        return 2 * self._bands

    def settings(self) -> dict[str, Any]:
        return {"bands": self._bands}

    def said(self) -> str:
        return f"mean and spread of {self._bands} bands"

    def measured(self, rows: Sequence[Row]) -> np.ndarray:
        """Mean and standard deviation over time of each band's level, (N, 2B)."""
        found_NF = np.zeros((len(rows), self.n_numbers()), np.float32)
        for number, row in enumerate(rows):
            path = row.content.media.path
            try:
                wave_S = read_wave(path, BANDS_RATE_HZ)
            except ValueError as error:
                raise DataError(f"{row.place}: {path} {error}. It could be read when the run began.") from None
            levels_TB = band_levels(wave_S[: round(_SECONDS_CAP * BANDS_RATE_HZ)], self._bands)
            found_NF[number] = np.concatenate([levels_TB.mean(0), levels_TB.std(0)])
        return found_NF
