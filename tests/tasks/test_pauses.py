"""Long recordings are cut where they are quiet, and nothing of them is lost."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from migaki.tasks.pauses import cut_at_pauses


def ends(wave_N: np.ndarray, rate_hz: int, longest_s: float) -> list[int]:
    return [at.stop for at in cut_at_pauses(wave_N, rate_hz, longest_s)]


def test_what_fits_is_one_piece():
    assert cut_at_pauses(np.ones(30), 10, 3.0) == [slice(0, 30)]
    assert cut_at_pauses(np.ones(0), 10, 3.0) == [slice(0, 0)]


def test_a_piece_ends_in_the_middle_of_the_pause():
    wave_N = np.ones(500)
    # 0.4 s of silence around sample 240; the quietest 20 samples that come last are 240 to 260.
    wave_N[220:260] = 0
    assert ends(wave_N, 100, 3.0)[0] == 250


def test_a_pause_before_the_last_third_is_too_early():
    wave_N = np.ones(500)
    wave_N[100:140] = 0
    # All of the last third, 200 to 300, is equally loud: the last 0.2 s of it are cut in their middle.
    assert ends(wave_N, 100, 3.0)[0] == 290


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(1, 40), st.floats(0.5, 4), st.integers(0, 5))
def test_pieces_are_all_of_it_in_order_and_none_is_too_long(n, rate_hz, longest_s, seed):
    wave_N = np.random.default_rng(seed).standard_normal(n).astype(np.float32)
    pieces = cut_at_pauses(wave_N, rate_hz, longest_s)
    assert [at.start for at in pieces] == [0, *(at.stop for at in pieces[:-1])]
    assert pieces[-1].stop == n
    assert all(at.stop - at.start <= max(1, round(longest_s * rate_hz)) for at in pieces)
