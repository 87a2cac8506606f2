"""How recordings are altered: by how much, worked out by hand, and by nothing but seed, epoch and row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from migaki.tasks.sound_augmentation import AugmentSound, SoundView
from odd_sounds import RATE_HZ, tone


def view(**changes: Any) -> SoundView:
    nothing: dict[str, Any] = {
        "gain_db": 0.0,
        "noise_db": None,
        "noise_of": (0, 0, 0),
        "silence_s": 0.0,
        "time": (),
        "bands": (),
    }
    return SoundView(**nothing | changes)


def test_a_view_that_changes_nothing_gives_back_the_samples():
    wave_N = tone(0.1)
    np.testing.assert_array_equal(view().of(wave_N, RATE_HZ), wave_N)
    assert view().masked_samples(wave_N) is wave_N
    mel_FT = np.ones((4, 10), np.float32)
    assert view().masked_bands(mel_FT, 10) is mel_FT


def test_twenty_decibels_are_a_factor_of_ten():
    wave_N = tone(0.1, height=0.05)
    np.testing.assert_allclose(view(gain_db=20.0).of(wave_N, RATE_HZ), 10 * wave_N, rtol=1e-5)
    np.testing.assert_allclose(view(gain_db=-20.0).of(wave_N, RATE_HZ), wave_N / 10, rtol=1e-5)
    assert np.abs(view(gain_db=40.0).of(wave_N, RATE_HZ)).max() == 1.0


def test_noise_lies_as_far_below_the_recording_as_it_should():
    wave_N = tone(2.0, height=0.1)
    noise_N = view(noise_db=20.0).of(wave_N, RATE_HZ) - wave_N
    ratio_db = 10 * np.log10(np.mean(wave_N**2) / np.mean(noise_N**2))
    # Of 32,000 samples the power is known to 1 %: 0.03 dB.
    assert ratio_db == pytest.approx(20, abs=0.2)


def test_silence_stays_silent():
    np.testing.assert_array_equal(view(noise_db=0.0).of(np.zeros(100, np.float32), RATE_HZ), np.zeros(100))


def test_silence_before_the_recording_pushes_nothing_beyond_what_is_heard():
    wave_N = tone(0.1)
    moved_N = view(silence_s=0.05).of(wave_N, RATE_HZ)
    np.testing.assert_array_equal(moved_N, np.concatenate([np.zeros(800, np.float32), wave_N]))
    assert len(view(silence_s=0.05).of(wave_N, RATE_HZ, longest=1700)) == 1700
    assert len(view(silence_s=0.05).of(wave_N, RATE_HZ, longest=1600)) == 1600


def test_masks_cover_their_stretch_and_their_band_with_the_mean_and_nothing_behind_the_recording():
    mel_FT = np.arange(40, dtype=np.float32).reshape(4, 10)
    found_FT = view(time=((0.25, 0.25),), bands=((0.5, 0.25),)).masked_bands(mel_FT, 8)
    mean = mel_FT[:, :8].mean()
    wanted_FT = mel_FT.copy()
    wanted_FT[:, 2:4] = mean
    wanted_FT[2, :8] = mean
    np.testing.assert_allclose(found_FT, wanted_FT)


def test_samples_are_silent_in_the_stretch_and_lack_the_band():
    wave_N = tone(0.5, hertz=1000) + tone(0.5, hertz=3000)
    quiet_N = view(time=((0.5, 0.25),)).masked_samples(wave_N)
    assert not quiet_N[4000:6000].any()
    np.testing.assert_array_equal(quiet_N[:4000], wave_N[:4000])
    # A quarter to a half of all frequencies up to 8000 Hz: 3000 Hz is gone, 1000 Hz is there.
    found_N = view(bands=((0.25, 0.25),)).masked_samples(wave_N)
    np.testing.assert_allclose(found_N, tone(0.5, hertz=1000), atol=1e-4)


FULL = AugmentSound(gain_db=6.0, noise_db=10.0, shift_s=0.5, time_masks=2, band_masks=1)


def test_what_is_drawn_follows_from_seed_epoch_and_row_and_lies_within_its_bounds():
    drawn = {(s, e, r): FULL.draw(s, r, e) for s in range(2) for e in range(3) for r in range(40)}
    assert drawn == {(s, e, r): FULL.draw(s, r, e) for s, e, r in drawn}
    assert len(set(drawn.values())) == len(drawn)
    for one in drawn.values():
        assert abs(one.gain_db) <= 6
        assert one.noise_db is not None
        assert 10 <= one.noise_db <= 30
        assert 0 <= one.silence_s <= 0.5
        assert [len(one.time), len(one.bands)] == [2, 1]
        assert all(start >= 0 and start + width <= 1 and width <= 0.05 for start, width in one.time)
        assert all(width <= 0.2 for _, width in one.bands)


def test_epochs_take_turns_with_the_views():
    augment = FULL.model_copy(update={"views": 2})
    assert augment.draw(0, 7, 0) == augment.draw(0, 7, 2) != augment.draw(0, 7, 1)


def test_switching_one_part_on_leaves_the_others_where_they_were():
    quiet = AugmentSound(gain_db=6.0).draw(0, 3, 1)
    assert quiet.gain_db == FULL.draw(0, 3, 1).gain_db
    assert (quiet.noise_db, quiet.silence_s, quiet.time, quiet.bands) == (None, 0.0, (), ())


def test_settings_that_change_nothing_are_refused():
    with pytest.raises(ValidationError, match="changes nothing"):
        AugmentSound(views=3)
