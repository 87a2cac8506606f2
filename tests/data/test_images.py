"""Images: what is read of each odd form, and how a broken one is named."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from migaki.core.errors import DataError
from migaki.data import Data
from migaki.data.images import IMAGES, decoded
from odd_images import BROKEN, ODD, picture, write_all


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    write_all(folder)
    return folder


@pytest.mark.parametrize("name", ODD)
def test_an_odd_image_becomes_plain_rgb(odd, name):
    image = decoded(odd / name)
    assert image.mode == "RGB"
    assert min(image.size) >= 1
    assert set(IMAGES.look(odd / name).traits) == {
        *("width", "height", "aspect", "brightness", "contrast", "sharpness")
    }


@pytest.mark.parametrize("name", [name for name in BROKEN if name != "empty.png"])
def test_a_broken_image_is_refused_with_its_reason(odd, name):
    with pytest.raises(ValueError, match=BROKEN[name][1]):
        IMAGES.look(odd / name)


def test_all_odd_and_broken_files_at_once_are_named_and_the_rest_is_read(odd):
    files = sorted(path for path in odd.iterdir())
    rows = [{"file": str(path), "label": "ab"[i % 2]} for i, path in enumerate(files)]
    ordinary = [row for row in rows if Path(row["file"]).name not in ("pipe.png", "nowhere.png", "empty.png")]
    with pytest.raises(DataError) as error:
        Data(train=ordinary).load("labelled_image", 0)
    assert f"{len(BROKEN) - 1} of {len(ordinary)} rows cannot be used" in str(error.value)
    assert "data.broken_files: leave_out" in str(error.value)
    splits = Data(train=ordinary, broken_files="leave_out", valid=0.2, test=0.2).load("labelled_image", 0)
    kept = [*splits.train.rows, *splits.valid.rows, *splits.test.rows]
    assert {Path(row.content.text).name for row in kept} == set(ODD)
    (finding,) = [f for f in splits.findings if "left out" in f.message]
    assert finding.count == len(BROKEN) - 1
    for name, (_, reason) in BROKEN.items():
        if name != "empty.png":
            assert any(name in told and re.search(reason, told) for told in finding.examples), name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pipe.png", "not an ordinary file"),
        ("nowhere.png", "does not exist"),
        ("empty.png", "is empty"),
        ("plain.pgn", "plain.png"),
    ],
)
def test_what_is_no_file_with_something_in_it_is_told_at_once(odd, name, reason):
    rows = [{"file": str(odd / name), "label": "a"}, {"file": str(odd / "plain.png"), "label": "b"}]
    with pytest.raises(DataError, match=reason):
        Data(train=rows).load("labelled_image", 0)


def test_a_bomb_takes_no_memory(odd):
    tracemalloc.start()
    for name in ("bomb.png", "bomb.ppm", "large.png"):
        with pytest.raises(ValueError, match="more than"):
            IMAGES.look(odd / name)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_image_is_the_upright_one(odd, orientation):
    """The seven marks of EXIF, each undone by numpy."""
    stored = np.asarray(Image.open(odd / f"turned-{orientation}.jpg")).astype(int)
    undone = {
        2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a.transpose(1, 0, 2), 2), 8: lambda a: np.rot90(a, 1),
    }[orientation]  # fmt: skip
    assert np.array_equal(np.asarray(decoded(odd / f"turned-{orientation}.jpg")), undone(stored))


def test_transparent_is_laid_over_white(tmp_path):
    """Half of black over white is the middle grey: 255 * (1 - 128 / 255) = 127."""
    Image.new("RGBA", (2, 2), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert np.asarray(decoded(tmp_path / "a.png")).tolist() == [[[127] * 3] * 2] * 2


def test_of_sixteen_bits_the_upper_eight_are_used(tmp_path):
    Image.fromarray(np.array([[0, 255, 256, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(decoded(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 0, 1, 255]


def test_fractions_are_stretched_from_the_darkest_to_the_brightest(tmp_path):
    Image.fromarray(np.array([[-1.0, 0.0, 1.0, np.nan]], dtype=np.float32), "F").save(tmp_path / "a.tif")
    assert np.asarray(decoded(tmp_path / "a.tif"))[0, :, 0].tolist() == [0, 127, 255, 0]


def test_of_an_animation_the_first_frame_is_used(odd):
    first = np.asarray(picture(seed=0))
    assert np.array_equal(np.asarray(decoded(odd / "animated.png")), first)
    assert np.array_equal(np.asarray(decoded(odd / "pages.tif")), first)


def test_rules_that_were_applied_are_told(odd):
    names = {"turned-6.jpg": "turned", "palette.png": "palette", "transparent.webp": "transparent", "deep.png": "deep",
             "fractions.tif": "stretched", "cmyk.tif": "cmyk", "animated.gif": "animated"}  # fmt: skip
    for name, remark in names.items():
        assert remark in IMAGES.look(odd / name).remarks
    assert IMAGES.look(odd / "plain.png").remarks == ()


def test_brightness_and_sharpness_are_what_they_are_called(tmp_path):
    grey = np.full((40, 40), 51, np.uint8)
    Image.fromarray(grey).save(tmp_path / "flat.png")
    chequered = (np.indices((40, 40)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(chequered).save(tmp_path / "chequered.png")
    flat, sharp = (IMAGES.look(tmp_path / f"{name}.png").traits for name in ("flat", "chequered"))
    assert (flat["brightness"], flat["contrast"], flat["sharpness"]) == (0.2, 0.0, 0.0)
    # Each pixel differs from its four neighbours by 1: the Laplacian is 4 or -4, and its variance 16.
    # Half of the pixels are 0 and half 1: the standard deviation is 0.5.
    assert (sharp["brightness"], sharp["contrast"], sharp["sharpness"]) == (0.5, 0.5, 16.0)


def test_a_blurred_photograph_is_less_sharp_and_a_wide_one_has_its_aspect(tmp_path):
    sharp = picture(96, 64)
    sharp.save(tmp_path / "sharp.png")
    sharp.filter(ImageFilter.GaussianBlur(2)).save(tmp_path / "blurred.png")
    looks = {name: IMAGES.look(tmp_path / f"{name}.png") for name in ("sharp", "blurred")}
    assert looks["blurred"].traits["sharpness"] < looks["sharp"].traits["sharpness"] / 10
    assert looks["sharp"].traits["aspect"] == 1.5
