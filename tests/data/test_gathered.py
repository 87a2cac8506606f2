"""What a folder of files is said to be, before there is a recipe for it."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest
import soundfile

from migaki.cli import main
from migaki.core.codec import parse_yaml
from migaki.core.errors import DataError
from migaki.data.gathered import gathered, is_gathered
from migaki.recipe import Recipe
from odd_images import picture
from odd_sounds import RATE_HZ, tone


def images(folder: Path, each: int = 2) -> Path:
    for label, n in (("cat", each), ("dog", each + 1)):
        (folder / label).mkdir(parents=True)
        for number in range(n):
            picture(seed=100 * n + number).save(folder / label / f"{number}.png")
    return folder


def sounds(folder: Path) -> Path:
    for label in ("no", "yes"):
        (folder / label).mkdir(parents=True)
        for number in range(3):
            soundfile.write(folder / label / f"{number}.wav", tone(0.1), RATE_HZ)
    return folder


def shown(capsys, *words: str) -> str:
    assert main(["data", "show", *words]) == 0
    return capsys.readouterr().out


def recipe_in(text: str, folder: Path) -> Recipe:
    """The lines that are printed, read as a recipe."""
    return Recipe.from_mapping(parse_yaml(text.partition("In a recipe:\n")[2], "shown")[0], folder)


def test_a_folder_of_images_says_its_classes_and_a_recipe_that_reads_it(tmp_path, capsys):
    images(tmp_path / "photos", 8)
    (tmp_path / "photos" / "cat" / "notes.txt").write_text("x")
    text = shown(capsys, str(tmp_path / "photos"))
    assert "a folder of images for each label, 17 in all\n  cat: 8\n  dog: 9\n" in text
    assert "1 files" in text
    assert "notes.txt" in text
    assert f"{tmp_path / 'photos'}:1" in text
    assert "0.png -> cat" in text
    recipe = recipe_in(text, tmp_path)
    assert recipe.task.kind == "classify_image"
    assert len(recipe.data.load(recipe.task.content_kind, 0).train) > 0


def test_splits_become_the_settings_that_name_them(tmp_path, capsys):
    images(tmp_path / "photos" / "train", 4)
    images(tmp_path / "photos" / "val")
    found = gathered(str(tmp_path / "photos"))
    assert found.labels == {"cat": 4, "dog": 5}
    assert dict(found.settings) == {n: f"{tmp_path}/photos/{f}" for n, f in (("train", "train"), ("valid", "val"))}
    recipe = recipe_in(shown(capsys, str(tmp_path / "photos")), tmp_path)
    assert (recipe.data.train, recipe.data.valid) == (f"{tmp_path}/photos/train", f"{tmp_path}/photos/val")


def test_a_table_beside_the_files_is_shown_with_its_columns(tmp_path, capsys):
    images(tmp_path / "photos")
    files = sorted((tmp_path / "photos").rglob("*.png"))
    rows = [{"image": str(f.relative_to(tmp_path / "photos")), "kind": "x", "category": f.parent.name} for f in files]
    (tmp_path / "photos" / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    text = shown(capsys, str(tmp_path / "photos"))
    assert "images with the table metadata.jsonl, 5 in all" in text
    assert "file from column 'image'" in text
    recipe = recipe_in(text, tmp_path)
    assert (recipe.data.label, recipe.data.file) == ("category", "image")


def test_recordings_by_label_and_recordings_with_what_is_said(tmp_path, capsys):
    text = shown(capsys, str(sounds(tmp_path / "words")))
    assert "a folder of recordings for each label, 6 in all\n  no: 3\n  yes: 3" in text
    assert recipe_in(text, tmp_path).task.kind == "classify_audio"
    lines = ["file_name,text", *(f"{w}/{n}.wav,{w} {n}" for w in ("no", "yes") for n in range(3))]
    (tmp_path / "words" / "metadata.csv").write_text("\n".join(lines), "utf-8")
    found = gathered(str(tmp_path / "words"))
    assert (found.content_kind, found.labels, found.files) == ("transcribed", {}, 6)
    assert dict(found.columns) == {"file": "file_name", "text": "text"}
    assert "0.wav -> no 0" in shown(capsys, str(tmp_path / "words"))


def test_an_archive_is_shown_like_the_folder_in_it(tmp_path, capsys):
    images(tmp_path / "photos")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted((tmp_path / "photos").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path))
    text = shown(capsys, str(tmp_path / "photos.zip"))
    assert "  cat: 2\n  dog: 3\n" in text
    assert recipe_in(text, tmp_path).data.train == str(tmp_path / "photos.zip")


def test_a_folder_of_images_is_checked_without_naming_the_task(tmp_path, capsys):
    assert main(["data", "check", str(images(tmp_path / "photos", 8))]) == 0
    assert "2 labels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: (folder / "a.csv").write_text("text,label\n"), "neither images nor recordings.*a.csv"),
        (lambda folder: picture().save(folder / "a.png"), "one folder for each label"),
        (lambda folder: None, "neither images nor recordings"),
    ],
)
def test_a_folder_that_cannot_be_read_says_what_to_do(tmp_path, make, reason):
    make(tmp_path)
    with pytest.raises(DataError, match=reason):
        gathered(str(tmp_path))


def test_a_task_on_texts_is_refused_for_a_folder_of_files(tmp_path, capsys):
    assert main(["data", "show", str(images(tmp_path / "photos")), "--task", "classify_text"]) == 2
    assert re.search("classify_text learns from texts, and .*photos is a folder of files", capsys.readouterr().err)


def test_a_folder_that_datasets_wrote_is_rows_and_not_files(tmp_path):
    (tmp_path / "state.json").write_text("{}")
    assert not is_gathered(str(tmp_path))
    assert not is_gathered("x" * 5000)
