"""Recordings: what is read of each odd form, how a broken one is named, and what is told about loudness and silence."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from migaki.core.store import file_sha256
from migaki.core.types import Media
from migaki.data.audio import RECORDINGS, Waves, read_wave
from migaki.data.workers import workers
from odd_sounds import BROKEN, ODD, RATE_HZ, tone, write_all


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    write_all(folder)
    return folder


def written(path: Path, samples: np.ndarray, rate_hz: int = RATE_HZ, subtype: str = "FLOAT") -> Path:
    soundfile.write(path, samples, rate_hz, subtype=subtype)
    return path


@pytest.mark.parametrize("name", ODD)
def test_an_odd_recording_becomes_one_channel_at_the_rate_that_is_asked_for(odd, name):
    look = RECORDINGS.look(odd / name)
    assert set(look.remarks) == ODD[name][1]
    assert look.remarks == tuple(sorted(look.remarks))
    assert set(look.remarks) <= RECORDINGS.remarks.keys()
    wave_N = read_wave(odd / name, RATE_HZ)
    assert wave_N.dtype == np.float32
    assert wave_N.ndim == 1
    assert np.abs(wave_N).max() <= 1
    assert len(wave_N) == pytest.approx(look.traits["seconds"] * RATE_HZ, abs=0.0011 * RATE_HZ)
    assert np.isfinite(list(look.traits.values())).all()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_recording_is_refused_with_its_reason(odd, name):
    with pytest.raises(ValueError, match=BROKEN[name][1]):
        RECORDINGS.look(odd / name)


def test_more_than_thirty_broken_files_are_in_the_harness():
    assert len(BROKEN) >= 30


def test_a_sine_of_height_one_half_is_nine_decibels_below_full_scale(tmp_path):
    # Mean square 1/8: 10 log10(1/8) = -9.03 dB.
    traits = RECORDINGS.look(written(tmp_path / "a.wav", tone(1.0, height=0.5))).traits
    assert traits["level_db"] == -9.0
    assert traits["seconds"] == 1.0


def test_a_recording_silent_for_three_quarters_says_so(tmp_path):
    samples = np.concatenate([np.zeros(3 * RATE_HZ, np.float32), tone(1.0)])
    traits = RECORDINGS.look(written(tmp_path / "a.wav", samples)).traits
    assert traits["silence"] == 0.75
    assert traits["noise_db"] == -120.0


def test_a_voice_ten_times_as_high_as_the_noise_in_its_pauses_is_twenty_decibels_above_it(tmp_path):
    # Half of the windows at height 0.5, half at 0.05: the powers are as 100 to 1.
    samples = np.concatenate([tone(1.0, height=0.5), tone(1.0, height=0.05)])
    assert RECORDINGS.look(written(tmp_path / "a.wav", samples)).traits["snr_db"] == 20.0
    assert RECORDINGS.look(written(tmp_path / "b.wav", tone(1.0))).traits["snr_db"] == pytest.approx(0.0, abs=0.1)
    nothing = np.zeros(RATE_HZ, np.float32)
    assert RECORDINGS.look(written(tmp_path / "c.wav", nothing)).traits["snr_db"] == 0.0
    spoken = np.concatenate([nothing, tone(1.0)])
    assert RECORDINGS.look(written(tmp_path / "d.wav", spoken)).traits["snr_db"] == 100.0


def test_one_sample_in_ten_at_full_scale_is_a_clipped_share_of_a_tenth(tmp_path):
    samples = tone(1.0)
    samples[::10] = 1.0
    look = RECORDINGS.look(written(tmp_path / "a.wav", samples))
    assert look.traits["clipped"] == 0.1
    assert look.remarks == ("clipped",)


def test_two_channels_become_their_mean(tmp_path):
    left, right = tone(height=0.2), tone(hertz=300, height=0.4)
    wave_N = read_wave(written(tmp_path / "a.wav", np.stack([left, right], 1)), RATE_HZ)
    np.testing.assert_allclose(wave_N, (left + right) / 2, atol=1e-7)


def test_samples_beyond_full_scale_are_divided_by_the_largest(tmp_path):
    samples = tone(height=2.5)
    wave_N = read_wave(written(tmp_path / "a.wav", samples), RATE_HZ)
    np.testing.assert_allclose(wave_N, samples / np.abs(samples).max(), atol=1e-6)


def test_a_tone_keeps_its_pitch_and_height_through_another_rate(tmp_path):
    path = written(tmp_path / "a.wav", tone(1.0, rate_hz=44_100), 44_100)
    wave_N = read_wave(path, RATE_HZ)
    assert len(wave_N) == RATE_HZ
    inner = slice(800, -800)  # a filter needs a moment at both ends
    np.testing.assert_allclose(wave_N[inner], tone(1.0)[inner], atol=2e-3)


def test_what_lies_above_half_the_new_rate_does_not_come_back_as_another_tone(tmp_path):
    path = written(tmp_path / "a.wav", tone(1.0, rate_hz=48_000, hertz=10_000), 48_000)
    assert np.abs(read_wave(path, RATE_HZ)[800:-800]).max() < 1e-3


def test_a_long_recording_is_looked_into_in_little_memory(tmp_path):
    # Five minutes at 48 kHz are 58 MB as float32.
    written(tmp_path / "a.flac", np.zeros(5 * 60 * 48_000, np.float32), 48_000, "PCM_16")
    tracemalloc.start()
    RECORDINGS.look(tmp_path / "a.flac")
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


@pytest.fixture
def media(tmp_path) -> list[Media]:
    paths = [written(tmp_path / f"{i}.wav", tone(0.1 * (i + 1), hertz=200 * (i + 1))) for i in range(3)]
    return [Media(str(path), file_sha256(path)) for path in paths]


def test_waves_of_many_recordings_are_those_of_each(media, tmp_path, monkeypatch):
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))
    for waves in (Waves.cached(media, RATE_HZ), Waves.of(media, RATE_HZ)):
        assert len(waves) == 3
        assert waves.lengths.tolist() == [1600, 3200, 4800]
        for one, wave_N in zip(media, waves, strict=True):
            np.testing.assert_array_equal(wave_N, read_wave(one.path, RATE_HZ))
        np.testing.assert_array_equal(waves[-1], waves[2])
        assert [len(wave_N) for wave_N in waves[1:]] == [3200, 4800]
        with pytest.raises(IndexError):
            waves[3]


def test_a_recording_is_decoded_once_and_never_again(media, tmp_path, monkeypatch):
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))
    first = [wave_N.copy() for wave_N in Waves.cached(media, RATE_HZ)]
    for one in media:
        Path(one.path).unlink()
    for before, wave_N in zip(first, Waves.cached(media, RATE_HZ), strict=True):
        np.testing.assert_array_equal(before, wave_N)


def test_kept_waves_cannot_be_written_over(media, tmp_path, monkeypatch):
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="read-only"):
        Waves.cached(media, RATE_HZ)[0][0] = 1.0


def test_recordings_that_workers_decode_are_the_same_to_the_last_bit_and_fail_in_the_same_words(
    media, tmp_path, monkeypatch
):
    wanted = [wave_N.copy() for wave_N in Waves.of(media, 8_000)]
    for n in (1, 2):
        monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / f"cache-{n}"))
        with workers(n):
            for waves in (Waves.cached(media, 8_000), Waves.of(media, 8_000)):
                for before, wave_N in zip(wanted, waves, strict=True):
                    np.testing.assert_array_equal(before, wave_N)
    Path(media[1].path).write_bytes(b"RIFF")
    said = []
    for n in (0, 2):
        with workers(n), pytest.raises(ValueError, match=r"1\.wav cannot be read as a recording") as error:
            Waves.of(media, 8_000)
        said.append(str(error.value))
    assert said[0] == said[1]
