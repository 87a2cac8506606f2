"""Where a long recording is cut into pieces that a model can hear: at its pauses. No torch."""

# Shapes: N samples

from __future__ import annotations

import numpy as np

__all__ = ["cut_at_pauses"]

_SEARCHED = 1 / 3
"""Share of the longest piece, at its end, in which a pause is looked for."""
_PAUSE_S = 0.2


def cut_at_pauses(wave_N: np.ndarray, rate_hz: int, longest_s: float) -> list[slice]:
    """Pieces in order, without gaps, none longer than `longest_s`; one where the whole is not longer.

    A piece ends in the middle of the quietest 0.2 seconds of its last third; of equally quiet ones in the last.

    >>> wave_N = np.ones(70)
    >>> wave_N[24:27] = 0
    >>> [(at.start, at.stop) for at in cut_at_pauses(wave_N, rate_hz=10, longest_s=3)]
    [(0, 26), (26, 55), (55, 70)]
    """
    longest = max(1, round(longest_s * rate_hz))
    searched = max(1, round(_SEARCHED * longest))
    pause = min(searched, max(1, round(_PAUSE_S * rate_hz)))
    pieces, start = [], 0
    while len(wave_N) - start > longest:
        first = start + longest - searched
        power_N = np.square(wave_N[first : start + longest], dtype=np.float64)
        total_N = np.concatenate([[0.0], np.cumsum(power_N)])
        in_pause = total_N[pause:] - total_N[:-pause]
        quietest = len(in_pause) - 1 - int(np.argmin(in_pause[::-1]))
        end = first + quietest + (pause + 1) // 2
        pieces.append(slice(start, end))
        start = end
    return [*pieces, slice(start, len(wave_N))]
