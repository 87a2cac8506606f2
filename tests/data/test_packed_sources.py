"""Compressed files, Excel sheets, and data sets as `datasets` saves them: the same rows as from a plain file."""

from __future__ import annotations

import datetime
import gzip
import json

import pyarrow as pa
import pytest

from migaki.core.errors import DataError
from migaki.data import read_records

openpyxl = pytest.importorskip("openpyxl")

ROWS = [{"text": "プリンターが動かない", "label": "hardware"}, {"text": 'says "hello", twice', "label": "NA"}]
CSV = 'text,label\nプリンターが動かない,hardware\n"says ""hello"", twice",NA\n'


def values(source, **settings):
    return [record.values for record in read_records(str(source), **settings).records]


def packed(path, content: bytes, codec: str):
    with pa.output_stream(str(path), compression=codec) as stream:
        stream.write(content)
    return path


@pytest.mark.parametrize(("ending", "codec"), [(".gz", "gzip"), (".zst", "zstd")])
def test_a_compressed_file_gives_the_rows_of_the_plain_one_with_its_own_lines(tmp_path, ending, codec):
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    assert values(packed(tmp_path / f"a.csv{ending}", CSV.encode(), codec)) == ROWS
    table = read_records(str(packed(tmp_path / f"a.jsonl{ending}", lines.encode("cp932"), codec)))
    assert [r.values for r in table.records] == ROWS
    assert (table.encoding, [r.place.line for r in table.records]) == ("cp932", [1, 2])


def test_a_file_of_several_gzip_members_is_read_to_its_end(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(CSV.encode()) + gzip.compress(b"more,x\n"))
    assert values(tmp_path / "a.csv.gz")[-1] == {"text": "more", "label": "x"}


@pytest.mark.parametrize(
    "content", [b"text,label\na,b\n", gzip.compress(CSV.encode())[:-9]], ids=["not packed", "cut off"]
)
def test_a_damaged_archive_is_refused_with_its_name(tmp_path, content):
    (tmp_path / "a.csv.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.csv\.gz is damaged or not compressed as its name says"):
        values(tmp_path / "a.csv.gz")


def test_a_small_file_that_grows_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("migaki.data.unpacking._MOST_BYTES", 1 << 20)
    path = packed(tmp_path / "a.csv.zst", b"text,label\n" + b"a" * (64 << 20), "zstd")
    assert path.stat().st_size < 10_000
    with pytest.raises(DataError, match=r"grows to more than .* when it is unpacked"):
        values(path)


def workbook(path, **sheets):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_a_sheet_gives_its_rows_with_the_numbers_that_excel_shows(tmp_path):
    day = datetime.datetime(2026, 1, 31, 12, 30)
    rows = [["text", "label", "n", "day"], ["画面", "a", 7, day], [], ["screen", "NA", 1.5, None]]
    table = read_records(str(workbook(tmp_path / "a.xlsx", data=rows, empty=[])))
    assert [r.values for r in table.records] == [
        {"text": "画面", "label": "a", "n": 7, "day": "2026-01-31T12:30:00"},
        {"text": "screen", "label": "NA", "n": 1.5, "day": None},
    ]
    assert [r.place.line for r in table.records] == [2, 4]


def test_of_several_filled_sheets_one_has_to_be_named(tmp_path):
    path = workbook(tmp_path / "a.xlsx", jan=[["text"], ["one"]], feb=[["text"], ["two"]])
    with pytest.raises(DataError, match=r"2 sheets that hold something \('jan', 'feb'\)\. Name one: data\.sheet: jan"):
        values(path)
    assert values(path, sheet="feb") == [{"text": "two"}]
    with pytest.raises(DataError, match=r"has no sheet 'fev'; .*feb"):
        values(path, sheet="fev")


def test_a_formula_that_was_never_computed_is_refused_with_its_row(tmp_path):
    path = workbook(tmp_path / "a.xlsx", data=[["text", "label"], ["one", "a"], ['="x"&"y"', "b"]])
    with pytest.raises(DataError, match=r"a\.xlsx:3: cell 1 holds a formula without a value"):
        values(path)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([["text", "text"], ["a", "b"]], "the column 'text' stands twice"),
        ([["text", None, "label"], ["a", "b", "c"]], "column 2 has no name"),
        ([["text"], ["a", "lost"]], r"a\.xlsx:2: 'lost' stands right of the last column"),
        ([], "no filled sheet"),
        ([["text", "label"]], "has no rows below its header"),
    ],
)
def test_a_sheet_that_would_lose_something_is_refused(tmp_path, rows, words):
    with pytest.raises(DataError, match=words):
        values(workbook(tmp_path / "a.xlsx", data=rows))


def test_a_file_that_only_is_called_xlsx_is_refused(tmp_path):
    (tmp_path / "a.xlsx").write_text(CSV)
    with pytest.raises(DataError, match=r"is not a readable Excel file"):
        values(tmp_path / "a.xlsx")


def saved(folder, rows, features=None, parts=2):
    """As `Dataset.save_to_disk` writes it."""
    folder.mkdir(parents=True)
    names = []
    for i in range(parts):
        table = pa.Table.from_pylist(rows[i::parts])
        names.append(f"data-{i:05}-of-{parts:05}.arrow")
        with pa.OSFile(str(folder / names[-1]), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features or {}}))
    return folder


def test_a_saved_data_set_gives_class_names_instead_of_numbers(tmp_path):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}, {"text": "c", "label": -1}]
    features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}, "text": {"dtype": "string", "_type": "Value"}}
    found = values(saved(tmp_path / "set", rows, features))
    assert found == [{"text": "a", "label": "yes"}, {"text": "c", "label": None}, {"text": "b", "label": "no"}]


def test_of_a_folder_with_splits_one_is_named_by_its_path(tmp_path):
    saved(tmp_path / "set" / "train", [{"text": "a", "label": "x"}], parts=1)
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(DataError, match=r"holds the splits train\. Name one: .*set/train"):
        values(tmp_path / "set")
    assert values(tmp_path / "set" / "train") == [{"text": "a", "label": "x"}]


def test_a_saved_data_set_that_lacks_a_file_is_refused(tmp_path):
    folder = saved(tmp_path / "set", [{"text": "a"}, {"text": "b"}])
    next(folder.glob("*.arrow")).unlink()
    with pytest.raises(DataError, match=r"set is not whole"):
        values(folder)


def test_a_recipe_reads_an_excel_file_like_any_other(tmp_path):
    from migaki.data import Data

    rows = [["text", "label"], *([f"text {i}", "ab"[i % 2]] for i in range(20))]
    path = workbook(tmp_path / "a.xlsx", data=rows, notes=[["mine"]])
    splits = Data(train=str(path), sheet="data").load("labelled", 0)
    assert len(splits.train) + len(splits.valid) + len(splits.test) == 20
