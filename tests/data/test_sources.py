"""Files, lists and addresses to records, and back."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migaki.core.errors import DataError, StorageError, UsageError
from migaki.core.types import Place, Record
from migaki.data import read_records, write_records
from migaki.data.sources import is_address


def lines(table):
    return [record.place.line for record in table.records]


def test_a_row_of_csv_stands_where_it_starts_even_when_a_cell_runs_over_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'text,label\n"one\ntwo",a\n\n"three\r\nfour",b\nfive,c\n')
    table = read_records(str(path))
    # Header 1, first row 2-3, blank 4, second row 5-6, third row 7.
    assert lines(table) == [2, 5, 7]
    assert [r.values["text"] for r in table.records] == ["one\ntwo", "three\r\nfour", "five"]


def test_cells_of_csv_stay_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\nNA,null\n007,None\n1.0,true\n")
    assert [list(r.values.values()) for r in read_records(str(path)).records] == [
        ["NA", "null"],
        ["007", "None"],
        ["1.0", "true"],
    ]


@pytest.mark.parametrize(
    ("name", "text", "separator"),
    [
        ("a.csv", "text,label\na;b,c\n", ","),
        ("a.csv", 'text;label\n"a;b";c\n', ";"),
        ("a.csv", "text\tlabel\na;b\tc\n", "\t"),
        ("a.tsv", "text\tlabel\na;b\tc\n", "\t"),
        ("a.csv", '"text";"lab,el"\n"a;b";c\n', ";"),
    ],
)
def test_the_separator_is_the_one_of_the_header(tmp_path, name, text, separator):
    path = tmp_path / name
    path.write_text(text)
    table = read_records(str(path))
    assert table.separator == separator
    assert list(table.records[0].values.values()) == ["a;b", "c"]


def test_json_lines_keep_their_numbers_past_blank_lines_and_line_separators_inside_a_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "a\u2028b"}\r\n\r\n{"text": "c", "label": 1}'.encode())
    table = read_records(str(path))
    assert lines(table) == [1, 3]
    assert table.columns == ("text", "label")
    assert table.records[0].values == {"text": "a\u2028b"}


def test_an_object_of_a_json_list_stands_where_it_starts(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('\n[ {"text":\n "a"},\n\n {"text": "b"} ,{"text": "c"}\n]\n')
    assert lines(read_records(str(path))) == [2, 5, 5]


def test_parquet_rows_are_numbered_and_keep_their_types(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "label": [1, None]}), path)
    records = read_records(str(path)).records
    assert records[1] == Record(Place(str(path), 2), {"text": "b", "label": None})


def test_a_list_is_a_source_under_its_own_name():
    table = read_records([{"text": "a"}, {"text": "b", "label": "x"}], "rows")
    assert [str(record.place) for record in table.records] == ["rows:1", "rows:2"]
    assert table.columns == ("text", "label")


def test_a_cell_of_twenty_megabytes_is_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "x" * 20_000_000 + ",a\n")
    assert len(read_records(str(path)).records[0].values["text"]) == 20_000_000


def test_a_missing_file_names_the_nearest_one(tmp_path):
    (tmp_path / "train.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match=r"trian\.csv; did you mean 'train\.csv'\?"):
        read_records(str(tmp_path / "trian.csv"))


def test_an_unreadable_file_says_so(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text("text\na\n")
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda _: (_ for _ in ()).throw(PermissionError(13, "denied")))
    with pytest.raises(DataError, match=r"a\.csv cannot be read \(denied\)\. Check its name and its permissions"):
        read_records(str(path))


def test_a_pipe_is_refused_at_once_instead_of_waiting_for_it(tmp_path):
    import os

    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(DataError, match="not an ordinary file"):
        read_records(str(tmp_path / "a.csv"))


@pytest.mark.parametrize("source", ["dmeo:helpdesk-chat", "https://example.org/train.csv"])
def test_an_unknown_scheme_is_not_taken_for_a_path(source):
    assert is_address(source)
    with pytest.raises(DataError, match="there is no source"):
        read_records(source)


def test_all_bad_rows_are_told_at_once_and_at_most_twenty_are_written_out(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "ok"}\n' + "nonsense\n" * 25)
    with pytest.raises(DataError) as caught:
        read_records(str(path))
    message = str(caught.value)
    assert message.startswith("25 of 26 rows cannot be used:")
    assert message.count("\n  - ") == 20
    assert message.endswith("... and 5 more")


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))


@given(rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=1), kind=st.sampled_from(["csv", "tsv", "jsonl"]))
def test_what_is_written_is_read_again_to_the_character(tmp_path_factory, rows, kind):
    path = tmp_path_factory.mktemp("written") / f"a.{kind}"
    rows = [{"text": text, "label;1": label} for text, label in rows]
    write_records(str(path), rows, ["text", "label;1"])
    assert [r.values for r in read_records(str(path)).records] == rows


def test_values_that_are_no_text_become_json_in_a_cell(tmp_path):
    path = tmp_path / "a.csv"
    write_records(str(path), [{"a": None, "b": 0.5, "c": True, "d": [{"x": "ä"}]}], ["a", "b", "c", "d"])
    assert path.read_text(encoding="utf-8") == 'a,b,c,d\n,0.5,true,"[{""x"": ""ä""}]"\n'


def test_a_column_that_only_later_rows_have_is_not_lost(tmp_path):
    path = tmp_path / "a.csv"
    write_records(str(path), [{"a": "1"}, {"a": "2", "b": "3"}], ["a"])
    assert path.read_text() == "a,b\n1,\n2,3\n"


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text("old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_records(str(path), [{"a": "1"}], ["a"])
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("name", ["a.xlsx", "a", "a.parquet"])
def test_an_output_of_another_kind_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(UsageError, match=r"can be written as \.csv, \.tsv or \.jsonl"):
        write_records(str(tmp_path / name), [{"a": "1"}], ["a"])
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_for_the_output_is_named(tmp_path):
    with pytest.raises(StorageError, match="Choose another place for it"):
        write_records(str(tmp_path / "none" / "a.csv"), [{"a": "1"}], ["a"])


def test_json_lines_are_written_with_every_value_as_it_is(tmp_path):
    path = tmp_path / "a.jsonl"
    row = {"messages": [{"role": "user", "content": "はい"}], "n": 1}
    write_records(str(path), [row], ["messages", "n"])
    assert json.loads(path.read_text(encoding="utf-8")) == row
