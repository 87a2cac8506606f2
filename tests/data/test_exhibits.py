"""Small copies for a page: how large they are, that they show what is there, and that they stay within their room."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from migaki.data.audio import RECORDINGS
from migaki.data.exhibits import exhibits
from migaki.data.images import IMAGES
from odd_images import picture, write_all
from odd_sounds import RATE_HZ, tone


def bytes_of(uri: str, kind: str) -> bytes:
    start = f"data:{kind};base64,"
    assert uri.startswith(start)
    return base64.b64decode(uri[len(start) :])


def image_of(uri: str, kind: str = "image/png") -> Image.Image:
    return Image.open(io.BytesIO(bytes_of(uri, kind)))


def test_a_large_image_is_shown_at_most_96_pixels_a_side_in_its_proportions(tmp_path):
    picture(800, 400).save(tmp_path / "a.jpg")
    shown = IMAGES.show(tmp_path / "a.jpg")
    assert image_of(shown["picture"], "image/jpeg").size == (96, 48)
    assert (shown["kind"], shown["width"], shown["height"]) == ("image", 800, 400)


def test_a_small_image_is_shown_pixel_by_pixel(tmp_path):
    drawn = Image.fromarray(np.eye(8, dtype=np.uint8) * 255).convert("RGB")
    drawn.save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(image_of(IMAGES.show(tmp_path / "a.png")["picture"]).convert("RGB")), drawn)


def test_a_turned_image_is_shown_upright_with_its_upright_size(tmp_path):
    write_all(tmp_path)
    shown = IMAGES.show(tmp_path / "turned-6.jpg")
    with Image.open(tmp_path / "turned-6.jpg") as stored:
        assert (shown["width"], shown["height"]) == stored.size[::-1]


def written(path: Path, wave_S: np.ndarray) -> Path:
    soundfile.write(path, wave_S, RATE_HZ)
    return path


def test_the_outline_is_low_where_it_is_quiet_and_reaches_a_hundred_at_the_loudest(tmp_path):
    # A quarter at 0.1 and three quarters at 0.4: heights 25 and 100, the peak at 20 log10(0.4) = -8.0 dB.
    wave_S = np.concatenate([tone(0.5, height=0.1), tone(1.5, height=0.4)])
    shown = RECORDINGS.show(written(tmp_path / "a.wav", wave_S))
    outline = np.array(shown["outline"])
    assert len(outline) == 240
    assert set(outline[:59]) <= {24, 25}
    assert set(outline[61:]) <= {98, 99, 100}
    assert (shown["peak_db"], shown["seconds"], shown["heard_s"]) == (-8.0, 2.0, 2.0)


def test_a_tone_that_rises_is_a_bright_line_from_the_lower_left_to_the_upper_right(tmp_path):
    wave_S = np.concatenate([tone(1.0, hertz=300.0), tone(1.0, hertz=5000.0)])
    shades_BP = np.asarray(image_of(RECORDINGS.show(written(tmp_path / "a.wav", wave_S))["picture"]))
    bands, columns = shades_BP.shape
    brightest_P = shades_BP.argmax(0)
    # Mel of 8 kHz: 2840, of 300 Hz: 402, of 5 kHz: 2364; row 0 is the highest band.
    for half, mel in ((brightest_P[: columns // 2 - 2], 402), (brightest_P[columns // 2 + 2 :], 2364)):
        np.testing.assert_allclose(bands * (1 - mel / 2840), half, atol=1.5)


def test_the_first_twenty_seconds_of_a_long_recording_can_be_heard(tmp_path):
    wave_S = tone(25.0)
    shown = RECORDINGS.show(written(tmp_path / "a.wav", wave_S))
    assert (shown["seconds"], shown["heard_s"]) == (25.0, 20.0)
    heard_S, rate = soundfile.read(io.BytesIO(bytes_of(shown["sound"], "audio/mpeg")))
    assert rate == RATE_HZ
    assert len(heard_S) / rate == pytest.approx(20.0, abs=0.2)
    middle = slice(5 * RATE_HZ, 6 * RATE_HZ)
    assert np.sqrt((heard_S[middle] ** 2).mean()) == pytest.approx(0.3 / np.sqrt(2), rel=0.05)
    assert len(shown["sound"]) < 200_000


def test_silence_and_a_click_can_be_shown(tmp_path):
    for wave_S in (np.zeros(RATE_HZ), np.array([0.5])):
        shown = RECORDINGS.show(written(tmp_path / "a.wav", wave_S))
        assert all(0 <= height <= 100 for height in shown["outline"])


def test_exhibits_stay_within_their_room_the_first_ones_first_and_each_once(tmp_path):
    for name in "abc":
        (tmp_path / name).touch()

    def show(path: Path) -> dict[str, str]:
        if not path.exists():
            raise ValueError("does not exist")
        return {"kind": "k", "picture": "x" * 9}

    paths = [str(tmp_path / name) for name in ("a", "gone", "b", "a", "c")]
    assert list(exhibits(paths, show, 29)) == [paths[0], paths[2]]
    assert list(exhibits(paths, show, 30)) == [paths[0], paths[2], paths[4]]
    assert exhibits(paths, show, 9) == {}
