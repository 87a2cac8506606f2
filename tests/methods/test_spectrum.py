"""The floor of sounds: bands, and what they tell apart."""

from __future__ import annotations

import numpy as np
import pytest
from transformers.audio_utils import mel_filter_bank, spectrogram

import migaki
from migaki.core.errors import DamagedError, RecipeError
from migaki.data.bands import _triangles, band_levels
from migaki.methods import Spectrum
from migaki.methods.bands import BandLearner
from migaki.recipe import Recipe
from migaki.tasks import ClassifyImage
from odd_sounds import RATE_HZ, tone
from tiny_speech import chirp, write_recordings


def test_levels_are_those_of_transformers():
    wave_S = chirp(2, 0.7)
    filters = mel_filter_bank(
        257, 40, 0.0, 8000.0, RATE_HZ, norm=None, mel_scale="htk", triangularize_in_mel_space=True
    )
    wanted_BT = spectrogram(
        wave_S,
        np.hanning(401)[:-1],
        frame_length=400,
        hop_length=160,
        fft_length=512,
        center=False,
        power=2.0,
        mel_filters=filters,
        mel_floor=1e-10,
        log_mel="log10",
    )
    np.testing.assert_allclose(band_levels(wave_S, 40), wanted_BT.T, atol=1e-4)


def test_a_tone_is_loudest_in_the_band_around_it():
    # On the mel scale 1000 Hz is 1000 mel of 2840, corners lie 2840 / 41 = 69.3 apart: the 14.4th corner, band 13 from 0.
    assert band_levels(tone(0.5, hertz=1000.0), 40).mean(0).argmax() == 13


def test_twice_the_amplitude_is_a_level_higher_by_log_four():
    wave_S = chirp(0, 0.4)
    np.testing.assert_allclose(band_levels(2 * wave_S, 20) - band_levels(wave_S, 20), np.log10(4), atol=1e-5)


def test_a_click_shorter_than_a_frame_is_one_frame():
    assert band_levels(np.ones(10, np.float32), 20).shape == (1, 20)


@pytest.mark.parametrize("bands", [4, 40, 64])
def test_no_band_is_empty(bands):
    assert _triangles(bands).max(0).min() > 0


def test_high_is_told_from_low_and_a_loaded_run_says_the_same(tmp_path):
    rows = [{"file": r["file"], "label": r["label"]} for r in write_recordings(tmp_path / "recordings")]
    made = Recipe(
        task="classify_audio",
        data={"train": rows, "valid": 0.25, "test": 0.25},
        method={"kind": "spectrum", "bands": 20},
    )
    run = migaki.train(made, runs=tmp_path / "runs")
    assert run.metrics["accuracy"].value == 1.0
    assert run.baseline["accuracy"].value == 0.5
    files = [row["file"] for row in rows]
    again = migaki.load(run.id, runs=tmp_path / "runs")
    assert [p.scores for p in again.predict(files)] == [p.scores for p in run.predict(files)]
    path = run.path / "model" / "spectrum.json"
    path.write_text(path.read_text().replace('"bands": 20', '"bands": 30'))
    with pytest.raises(DamagedError, match=r"weights of another size"):
        BandLearner.load(run.path / "model")


def test_images_have_no_spectrum(tmp_path):
    said = Spectrum().misfit(ClassifyImage())
    assert said is not None
    assert "rows of classify_image are none; the floor there is method: pixels" in said
    with pytest.raises(RecipeError):
        Spectrum().prepare(None, ClassifyImage(), None, 0)
