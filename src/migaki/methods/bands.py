"""The learner of `spectrum`."""

# Shapes: N rows, B bands, S samples, T frames, W samples of a frame, Q frequencies

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from migaki.core.errors import DataError
from migaki.core.types import Row
from migaki.data.audio import read_wave
from migaki.methods.measured import MeasuredLearner

__all__ = ["BandLearner", "band_levels"]

_RATE_HZ, _FRAME, _HOP, _POINTS = 16_000, 400, 160, 512
"""Frames of 25 ms, one every 10 ms."""
_FLOOR = 1e-10
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
                wave_S = read_wave(path, _RATE_HZ)
            except ValueError as error:
                raise DataError(f"{row.place}: {path} {error}. It could be read when the run began.") from None
            levels_TB = band_levels(wave_S[: round(_SECONDS_CAP * _RATE_HZ)], self._bands)
            found_NF[number] = np.concatenate([levels_TB.mean(0), levels_TB.std(0)])
        return found_NF


def band_levels(wave_S: np.ndarray, bands: int) -> np.ndarray:
    """Level of each band in each frame, (T, B): the logarithm (base 10) of the power in triangles on the mel scale.

    Args:
        wave_S: samples at 16 kHz; fewer than a frame are filled up with silence.
    Source: Davis & Mermelstein 1980, doi:10.1109/TASSP.1980.1163420, without their last step.
    """
    wave_S = np.pad(wave_S, (0, max(0, _FRAME - len(wave_S))))
    frames_TW = np.lib.stride_tricks.sliding_window_view(wave_S, _FRAME)[::_HOP] * np.hanning(_FRAME + 1)[:-1]
    power_TQ = np.abs(np.fft.rfft(frames_TW, _POINTS)) ** 2
    levels_TB: np.ndarray = np.log10(np.maximum(power_TQ @ _triangles(bands), _FLOOR))
    return levels_TB


@functools.cache
def _triangles(bands: int) -> np.ndarray:
    """(Q, B): triangles of height 1 whose corners lie evenly on the mel scale from 0 to 8 kHz, each from the middle of one
    neighbour to that of the other."""
    corners = np.linspace(0.0, _mel(_RATE_HZ / 2), bands + 2)
    at_Q1 = _mel(np.linspace(0.0, _RATE_HZ / 2, _POINTS // 2 + 1))[:, None]
    left_B, middle_B, right_B = corners[:-2], corners[1:-1], corners[2:]
    rising_QB, falling_QB = (at_Q1 - left_B) / (middle_B - left_B), (right_B - at_Q1) / (right_B - middle_B)
    triangles_QB: np.ndarray = np.maximum(0.0, np.minimum(rising_QB, falling_QB))
    return triangles_QB


def _mel(hertz: Any) -> Any:
    return 2595.0 * np.log10(1.0 + np.asarray(hertz) / 700.0)
