"""What an audit tells of images and recordings: planted copies, blanks, silences and voices, and nothing of good files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from PIL.Image import Resampling

from migaki.audit.audit import audit
from migaki.core.errors import DataError
from migaki.data import Data
from migaki.exhibits import exhibits_of
from migaki.report import write_audit
from odd_sounds import RATE_HZ, tone
from pages import Page


def scene(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    drawn = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(drawn, "RGB").resize(size, Resampling.BICUBIC)


def table(home: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "file": str(home / row["file"])} for row in rows]


def lights_of(data: Data, content: str) -> dict[str, Any]:
    found = audit(data.load(content, 0), content)
    return {light.name: light for light in found.lights}


@pytest.fixture
def scenes(tmp_path) -> list[dict[str, Any]]:
    """Sixty pictures under two labels."""
    for i in range(60):
        scene(i).save(tmp_path / f"{i:02d}.png")
    return table(tmp_path, [{"file": f"{i:02d}.png", "label": "ab"[i % 2]} for i in range(60)])


def test_of_good_images_nothing_is_told_but_their_sizes_and_that_none_are_alike(scenes):
    lights = lights_of(Data(train=scenes), "labelled_image")
    assert {name for name, light in lights.items() if light.level != "green"} <= {"size of the test split"}
    assert lights["sizes"].message == "all images have 120 x 90 pixels"
    assert lights["near duplicates"].count == 0


def test_planted_near_copies_across_splits_are_found_and_no_others(scenes, tmp_path):
    """Ten test images are train images in another size, format or light; twenty are new."""
    planted = []
    for i in range(10):
        image = scene(i)
        if i % 3 == 0:
            image.resize((70, 52)).save(tmp_path / f"copy{i}.png")
        elif i % 3 == 1:
            image.save(tmp_path / f"copy{i}.jpg", quality=40)
        else:
            image.point(lambda value: int(0.8 * value)).save(tmp_path / f"copy{i}.png")
        planted.append({"file": f"copy{i}.{'jpg' if i % 3 == 1 else 'png'}", "label": "ab"[i % 2]})
    for i in range(20):
        scene(1000 + i).save(tmp_path / f"new{i}.png")
    new = [{"file": f"new{i}.png", "label": "ab"[i % 2]} for i in range(20)]
    test = table(tmp_path, [*planted, *new])
    data = Data(train=scenes, test=test)
    light = lights_of(data, "labelled_image")["near leaks"]
    assert (light.level, light.count) == ("red", 10)
    for example, copy, original in zip(light.examples, light.files[::2], light.files[1::2], strict=True):
        number = int(re.match(r"test:(\d+) \(test\) ~ train:\1 \((?:train|valid)\): (?:0\.9|1\.0)", example)[1])
        assert (copy, original) == (test[number - 1]["file"], scenes[number - 1]["file"])

    found = audit(data.load("labelled_image", 0), "labelled_image").as_json()
    shown = exhibits_of((file for one in found["lights"] for file in one.get("files", ())), "labelled_image")
    for language in ("en", "ja"):
        page = Page(write_audit("rows", found, language, shown))
        assert ("Measured on the files" if language == "en" else "ファイルの測定値") in page.all("h2")
        assert [name for name, _ in page.elements].count("img") == 10
        policy = [a["content"] for _, a in page.elements if "http-equiv" in a]
        assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_near_copies_stay_on_one_side_where_the_recipe_says_so(scenes, tmp_path):
    copies = []
    for i in range(60):
        scene(i).resize((80, 60)).save(tmp_path / f"copy{i}.png")
        copies.append({"file": f"copy{i}.png", "label": "ab"[i % 2]})
    rows = [*scenes, *table(tmp_path, copies)]

    def parted(**split: Any) -> int:
        splits = Data(train=rows, split=split).load("labelled_image", 0)
        part_of = {
            Path(row.content.text).stem: part.name
            for part in (splits.train, splits.valid, splits.test)
            for row in part.rows
        }
        return sum(part_of[f"{i:02d}"] != part_of[f"copy{i}"] for i in range(60))

    assert parted() > 10
    assert parted(near=0.98) == 0


def test_tiny_and_blank_images_are_named(scenes, tmp_path):
    Image.new("RGB", (200, 100), "white").save(tmp_path / "blank.png")
    scene(7, (20, 90)).save(tmp_path / "tiny.png")
    rows = [*scenes, *table(tmp_path, [{"file": "blank.png", "label": "a"}, {"file": "tiny.png", "label": "b"}])]
    lights = lights_of(Data(train=rows), "labelled_image")
    for name in ("blank", "tiny"):
        light = lights[f"{name} images"]
        assert (light.level, light.count) == ("yellow", 1)
        assert light.files == (str(tmp_path / f"{name}.png"),)
    assert lights["sizes"].message.startswith("3 sizes")


def test_two_equal_files_are_copies_and_no_near_ones(scenes, tmp_path):
    (tmp_path / "again.png").write_bytes((tmp_path / "00.png").read_bytes())
    rows = [*scenes, *table(tmp_path, [{"file": "again.png", "label": "a"}])]
    assert lights_of(Data(train=rows), "labelled_image")["near duplicates"].count == 0


@pytest.fixture
def sounds(tmp_path) -> list[dict[str, Any]]:
    """Forty tones of a second under two labels, by four voices."""
    for i in range(40):
        soundfile.write(tmp_path / f"{i:02d}.wav", tone(1.0, hertz=200.0 + 10 * i), RATE_HZ)
    names = [{"file": f"{i:02d}.wav", "label": "ab"[i % 2], "speaker": f"voice {i // 10}"} for i in range(40)]
    return table(tmp_path, names)


ODD_SOUNDS = {
    "quiet recordings": tone(1.0, height=0.004),
    "silence": np.concatenate([tone(0.4), np.zeros(RATE_HZ)]),
    "clipping": np.clip(tone(1.0, height=1.4), -1, 1),
    "short recordings": tone(0.05),
    "very long recordings": tone(11.0),
}


def test_odd_recordings_are_named_each_by_its_own_light(sounds, tmp_path):
    for name, wave_S in ODD_SOUNDS.items():
        soundfile.write(tmp_path / f"{name}.wav", wave_S, RATE_HZ)
    odd = [{"file": f"{name}.wav", "label": "a", "speaker": "voice 0"} for name in ODD_SOUNDS]
    lights = lights_of(Data(train=[*sounds, *table(tmp_path, odd)]), "labelled_recording")
    for name in ODD_SOUNDS:
        assert (lights[name].level, lights[name].count) == ("yellow", 1), name
        assert str(tmp_path / f"{name}.wav") in lights[name].examples[0]
    # 40 x 1 s and 1 + 1.4 + 1 + 0.05 + 11 s
    assert lights["length of the recordings"].message == "54 s in all; 16000 Hz 100%"


def test_of_good_recordings_nothing_is_told_but_who_speaks_on_both_sides(sounds):
    lights = lights_of(Data(train=sounds), "labelled_recording")
    assert {name for name, light in lights.items() if light.level != "green"} <= {"size of the test split", "speakers"}
    light = lights["speakers"]
    assert light.message.startswith("8 of 8 test rows are spoken by somebody who speaks in train too")
    assert light.remedy == "data.split: {by: speaker}"
    apart = lights_of(Data(train=sounds, split={"by": "speaker"}), "labelled_recording")
    assert apart["speakers"].level == "green"


def test_a_sample_rate_that_tells_the_label_is_told(sounds, tmp_path):
    """All of b come from a telephone: by the rate alone every label is known, by the most frequent one half."""
    for i in range(1, 40, 2):
        soundfile.write(tmp_path / f"{i:02d}.wav", tone(1.0, rate_hz=8000, hertz=200.0 + 10 * i), 8000)
    light = lights_of(Data(train=sounds), "labelled_recording")["labels told by the form"]
    assert light.message.startswith("by the sample rate alone the label of 100% of the train rows can be guessed")


def test_recordings_are_not_divided_by_likeness(sounds):
    with pytest.raises(DataError, match=r"data\.split\.near compares texts and images.*data\.split: \{by: speaker\}"):
        Data(train=sounds, split={"near": 0.9}).load("labelled_recording", 0)


def test_a_page_plays_what_it_names(sounds, tmp_path):
    soundfile.write(tmp_path / "quiet.wav", ODD_SOUNDS["quiet recordings"], RATE_HZ)
    rows = [*sounds, *table(tmp_path, [{"file": "quiet.wav", "label": "a", "speaker": "voice 0"}])]
    found = audit(Data(train=rows).load("labelled_recording", 0), "labelled_recording").as_json()
    shown = exhibits_of((file for one in found["lights"] for file in one.get("files", ())), "labelled_recording")
    text = write_audit("rows", found, "en", shown)
    assert "media-src data:" in text
    assert 'aria-label="quiet.wav"' in text
