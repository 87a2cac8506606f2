"""A snapshot gives the rows that were written, opens no other file, and is refused where anything about it is not so."""

import json

import pytest

from data.odd_files import FLAT, NESTED, write_lines
from migaki.cli import main
from migaki.core.errors import DataError
from migaki.data import Data
from migaki.data.prepared import content_hash

FORMS = {**FLAT, **NESTED}


def section(tmp_path, form, **more):
    _, make = FORMS[form]
    file = tmp_path / "rows.jsonl"
    file.write_text(write_lines([make(n) for n in range(24)]))
    return Data.model_validate({"train": str(file), "valid": 0.25, "test": 0.25, **more}), FORMS[form][0]


@pytest.mark.parametrize("form", FORMS)
def test_every_format_comes_back_row_by_row_with_its_places(tmp_path, form):
    data, kind = section(tmp_path, form)
    wanted, found = data.prepare(tmp_path / "fixed", kind, seed=0)
    (tmp_path / "rows.jsonl").unlink()
    splits = data.model_copy(update={"prepared": str(tmp_path / "fixed")}).load(kind, seed=0)
    assert [splits.train, splits.valid, splits.test] == [wanted.train, wanted.valid, wanted.test]
    assert splits.findings == wanted.findings
    assert content_hash(splits) == found


def test_what_cleaning_made_of_the_rows_is_what_is_kept(tmp_path):
    data, kind = section(tmp_path, "label", clean=["width"])
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": f"ＡＢＣ {n}", "label": "xy"[n % 2]}) + "\n" for n in range(24)))
    data.prepare(tmp_path / "fixed", kind, seed=0)
    splits = data.model_copy(update={"prepared": str(tmp_path / "fixed")}).load(kind, seed=0)
    assert all(row.content.text.startswith("ABC") for row in splits.train.rows)


@pytest.mark.parametrize(
    ("change", "seed", "message"),
    [
        ({"clean": ["width"]}, 0, "data.clean differs"),
        ({"test": 0.3}, 0, "data.test differs"),
        ({}, 1, "prepared with seed 0"),
    ],
)
def test_another_section_or_seed_is_refused(tmp_path, change, seed, message):
    data, kind = section(tmp_path, "label")
    data.prepare(tmp_path / "fixed", kind, seed=0)
    other, _ = section(tmp_path, "label", **change, prepared=str(tmp_path / "fixed"))
    with pytest.raises(DataError, match=f"{message}.*[Pp]repare the data again"):
        other.load(kind, seed)


def test_another_kind_of_task_is_refused(tmp_path):
    data, kind = section(tmp_path, "label")
    data.prepare(tmp_path / "fixed", kind, seed=0)
    with pytest.raises(DataError, match="for rows of kind labelled, not conversation"):
        data.model_copy(update={"prepared": str(tmp_path / "fixed")}).load("conversation", 0)


@pytest.mark.parametrize("name", ["train.arrow", "prepared.json"])
def test_one_flipped_bit_is_found(tmp_path, name):
    data, kind = section(tmp_path, "label")
    data.prepare(tmp_path / "fixed", kind, seed=0)
    file = tmp_path / "fixed" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=f"{name}.*Prepare the data again"):
        data.model_copy(update={"prepared": str(tmp_path / "fixed")}).load(kind, 0)


def test_a_snapshot_is_never_overwritten_and_a_folder_without_one_is_refused(tmp_path):
    data, kind = section(tmp_path, "label")
    data.prepare(tmp_path / "fixed", kind, seed=0)
    with pytest.raises(DataError, match="already there"):
        data.prepare(tmp_path / "fixed", kind, seed=0)
    with pytest.raises(DataError, match=r"holds no prepared data\. Make it with"):
        data.model_copy(update={"prepared": str(tmp_path)}).load(kind, 0)


def test_the_command_line_prepares_and_trains_from_it_alone(tmp_path, capsys):
    section(tmp_path, "label")
    recipe = tmp_path / "r.yaml"
    recipe.write_text("task: classify_text\nmethod: tfidf\ndata: {train: rows.jsonl}\n")
    assert main(["data", "prepare", str(recipe), "--output", str(tmp_path / "fixed")]) == 0
    assert "sha256:" in capsys.readouterr().out
    (tmp_path / "rows.jsonl").unlink()
    words = ["train", str(recipe), "--runs", str(tmp_path / "runs")]
    assert main(words) == 2
    assert main([*words, "--set", f"data.prepared={tmp_path / 'fixed'}"]) == 0
