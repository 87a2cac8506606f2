"""How loud each band of frequencies of a recording is, over time."""

# Shapes: B bands, S samples, T frames, W samples of a frame, Q frequencies

from __future__ import annotations

import functools
from typing import Any

import numpy as np

__all__ = ["BANDS_RATE_HZ", "band_levels"]

BANDS_RATE_HZ = 16_000
"""What recordings are brought to before their bands are measured, up to 8 kHz."""
_FRAME, _HOP, _POINTS = 400, 160, 512
"""Frames of 25 ms, one every 10 ms."""
_FLOOR = 1e-10


def band_levels(wave_S: np.ndarray, bands: int) -> np.ndarray:
    """Level of each band in each frame, (T, B): the logarithm (base 10) of the power in triangles on the mel scale.

    Args:
        wave_S: samples at 16 kHz; fewer than a frame are filled up with silence.
        bands: from 0 to 8 kHz, at most 64.
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
    corners = np.linspace(0.0, _mel(BANDS_RATE_HZ / 2), bands + 2)
    at_Q1 = _mel(np.linspace(0.0, BANDS_RATE_HZ / 2, _POINTS // 2 + 1))[:, None]
    left_B, middle_B, right_B = corners[:-2], corners[1:-1], corners[2:]
    rising_QB, falling_QB = (at_Q1 - left_B) / (middle_B - left_B), (right_B - at_Q1) / (right_B - middle_B)
    triangles_QB: np.ndarray = np.maximum(0.0, np.minimum(rising_QB, falling_QB))
    return triangles_QB


def _mel(hertz: Any) -> Any:
    return 2595.0 * np.log10(1.0 + np.asarray(hertz) / 700.0)
