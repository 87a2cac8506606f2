"""The learner of `spectrum`."""

# Shapes: B bands, S samples, T frames

from __future__ import annotations

from typing import Any

import numpy as np

from migaki.data.audio import read_wave
from migaki.data.bands import BANDS_RATE_HZ, band_levels
from migaki.methods.measured import FileLearner

__all__ = ["BandLearner"]

_SECONDS_CAP = 30.0
"""What is measured at most of a recording, as a model without a limit of its own hears of it."""


class BandLearner(FileLearner):
    """A label for each recording from how loud each band of it is, and how much that changes."""

    name = "spectrum"

    def __init__(self, bands: int, **known: Any) -> None:
        super().__init__(**known)
        self._bands = bands

    def n_numbers(self) -> int:
        return 2 * self._bands

    def settings(self) -> dict[str, Any]:
        return {"bands": self._bands, **super().settings()}

    def said(self) -> str:
        return f"mean and spread of {self._bands} bands"

    def measured(self, path: str) -> np.ndarray:
        """Mean and standard deviation over time of each band's level, (2B,)."""
        wave_S = read_wave(path, BANDS_RATE_HZ)
        levels_TB = band_levels(wave_S[: round(_SECONDS_CAP * BANDS_RATE_HZ)], self._bands)
        return np.concatenate([levels_TB.mean(0), levels_TB.std(0)])
