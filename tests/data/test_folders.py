"""Folders of files as rows: labels by folder, tables beside the files, archives."""

from __future__ import annotations

import json
import stat
import zipfile
from pathlib import Path

import pytest

from migaki.core.errors import DataError
from migaki.data import Data
from migaki.data.archives import unpacked_archive
from odd_images import picture


def write_folder(folder: Path, each: int = 5) -> Path:
    for number in range(3 * each):
        label = folder / ("cat", "dog", "犬")[number % 3]
        label.mkdir(parents=True, exist_ok=True)
        picture(seed=number).save(label / f"{number:02d}.png")
    return folder


def labels_of(splits) -> list[str]:
    return sorted(row.content.label for split in (splits.train, splits.valid, splits.test) for row in split.rows)


def test_every_folder_is_a_label(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "cat" / "deeper").mkdir()
    picture(seed=99).save(tmp_path / "cat" / "deeper" / "x.PNG")
    (tmp_path / "cat" / "notes.txt").write_text("x")
    (tmp_path / ".DS_Store").write_text("x")
    splits = Data(train=str(tmp_path)).load("labelled_image", 0)
    assert labels_of(splits) == ["cat"] * 6 + ["dog"] * 5 + ["犬"] * 5
    (note,) = [f for f in splits.findings if "left out" in f.message]
    assert note.count == 1
    assert "notes.txt" in note.examples[0]


def test_splits_are_named_one_by_one(tmp_path):
    for name in ("train", "test"):
        write_folder(tmp_path / name)
    with pytest.raises(DataError, match=r"data\.test: .*test and data\.train: .*train"):
        Data(train=str(tmp_path)).load("labelled_image", 0)
    splits = Data(train=str(tmp_path / "train"), test=str(tmp_path / "test")).load("labelled_image", 0)
    assert len(splits.test) == 15
    # The same files in both: a leak, whatever their paths are.
    assert any("15 of 15 test rows are also in train" in f.message for f in splits.findings)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_table_beside_the_files_says_what_they_are(tmp_path, ending):
    write_folder(tmp_path / "files")
    paths = sorted((tmp_path / "files").rglob("*.png"))
    rows = [{"file_name": str(p.relative_to(tmp_path)), "label": "ab"[i % 2]} for i, p in enumerate(paths)]
    if ending == "csv":
        text = "file_name,label\n" + "".join(f"{r['file_name']},{r['label']}\n" for r in rows)
    else:
        text = "".join(json.dumps(r) + "\n" for r in rows)
    (tmp_path / f"metadata.{ending}").write_text(text, encoding="utf-8")
    splits = Data(train=str(tmp_path)).load("labelled_image", 0)
    assert labels_of(splits) == ["a"] * 8 + ["b"] * 7
    table = Data(train=str(tmp_path / f"metadata.{ending}")).load("labelled_image", 0)
    assert table.train.fingerprint() == splits.train.fingerprint()


def test_a_path_that_leads_nowhere_is_named_with_its_line_and_the_nearest_name(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "t.csv").write_text("file,label\ncat/00.png,a\ncat/03.pgn,b\n")
    with pytest.raises(DataError, match=r"t\.csv:3: .*03\.pgn does not exist; .*03\.png"):
        Data(train=str(tmp_path / "t.csv")).load("labelled_image", 0)


def test_equal_files_stay_on_one_side(tmp_path):
    write_folder(tmp_path, each=10)
    for path in list((tmp_path / "cat").iterdir()):
        (tmp_path / "cat" / f"copy-{path.name}").write_bytes(path.read_bytes())
    splits = Data(train=str(tmp_path), valid=0.3, test=0.3).load("labelled_image", 0)
    sides = [{row.content.key() for row in split.rows} for split in (splits.train, splits.valid, splits.test)]
    assert sum(map(len, sides)) == len(set().union(*sides))
    assert any("repeat an earlier one" in f.message for f in splits.findings)


def test_moving_the_folder_changes_no_fingerprint(tmp_path):
    write_folder(tmp_path / "a")
    before = Data(train=str(tmp_path / "a")).load("labelled_image", 0)
    (tmp_path / "a").rename(tmp_path / "b")
    after = Data(train=str(tmp_path / "b")).load("labelled_image", 0)
    assert before.train.fingerprint() == after.train.fingerprint()


def test_steps_that_clean_texts_are_refused(tmp_path):
    write_folder(tmp_path)
    with pytest.raises(DataError, match="is for texts"):
        Data(train=str(tmp_path), clean=[{"kind": "spaces"}]).load("labelled_image", 0)


def test_a_folder_without_labels_says_how_to_make_some(tmp_path):
    picture().save(tmp_path / "a.png")
    with pytest.raises(DataError, match="one folder for each label"):
        Data(train=str(tmp_path)).load("labelled_image", 0)
    with pytest.raises(DataError, match="holds no folders with images"):
        Data(train=str(write_texts(tmp_path / "texts"))).load("labelled_image", 0)


def write_texts(folder: Path) -> Path:
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "a.txt").write_text("x")
    return folder


# Archives


def pack(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*.png")):
            file.write(path, path.relative_to(folder.parent))
    return archive


def test_an_archive_is_the_folder_it_was_made_of(tmp_path):
    write_folder(tmp_path / "images")
    archive = pack(tmp_path / "images", tmp_path / "images.zip")
    packed = Data(train=str(archive)).load("labelled_image", 0)
    assert (
        packed.train.fingerprint() == Data(train=str(tmp_path / "images")).load("labelled_image", 0).train.fingerprint()
    )


def one_entry(path: Path, name: str, data: bytes = b"x", mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        file.writestr(info, data)
    return path


@pytest.mark.parametrize(
    ("name", "mode", "reason"),
    [
        ("../out.png", 0, "leads out"),
        ("/etc/out.png", 0, "leads out"),
        ("a/../../out.png", 0, "leads out"),
        ("c:/out.png", 0, "leads out"),
        ("a/link.png", stat.S_IFLNK | 0o777, "is a link"),
        ("a/device", stat.S_IFCHR | 0o600, "is a link or a device"),
        ("a/" + "x" * 300 + ".png", 0, "a name of more than 255 bytes"),
        (".", 0, "has no name"),
    ],
)
def test_an_entry_that_must_not_be_unpacked_is_refused_before_anything_is(tmp_path, name, mode, reason):
    archive = one_entry(tmp_path / "a.zip", name, b"/etc/passwd", mode)
    with pytest.raises(DataError, match=f"{reason}.*unpack it yourself and name the folder"):
        unpacked_archive(archive)
    with pytest.raises(DataError, match=f"{reason}.*unpack it yourself and name the folder"):
        Data(train=str(archive)).load("labelled_image", 0)
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".png"] == []


def test_a_bomb_is_refused_by_what_it_would_grow_to(tmp_path):
    archive = one_entry(tmp_path / "a.zip", "a/zeros.png", bytes(80 << 20))
    with pytest.raises(DataError, match="would grow from"):
        unpacked_archive(archive)


def test_names_that_stand_twice_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a", b"x")
        file.writestr("a/b.png", b"x")
    with pytest.raises(DataError, match="twice"):
        unpacked_archive(tmp_path / "a.zip")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 not really", b"x" * 100])
def test_what_is_no_archive_is_told(tmp_path, data):
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match="no zip archive"):
        unpacked_archive(tmp_path / "a.zip")


def test_an_archive_is_no_file_of_texts(tmp_path):
    archive = one_entry(tmp_path / "a.zip", "a/rows.csv")
    with pytest.raises(DataError, match=r"\.zip' are not read.*unpack it"):
        Data(train=str(archive)).load("labelled", 0)


def test_a_damaged_archive_is_told(tmp_path):
    write_folder(tmp_path / "images")
    archive = pack(tmp_path / "images", tmp_path / "images.zip")
    data = bytearray(archive.read_bytes())
    data[200:300] = bytes(100)
    archive.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        unpacked_archive(archive)
