"""Every fault of a data file ends in a message with place and remedy; what is only odd is read to the character."""

import pytest

from migaki.core.errors import DataError
from migaki.core.types import Labelled
from migaki.data import Data

HEADER = "text,label\n"
JSON = '{"text": "x", "label": "a"}\n'

# name of the case: (file, bytes, place in the message, remedy in the message)
MALFORMED = {
    "empty file": ("a.csv", b"", "a.csv", "Give a file"),
    "only white space": ("a.jsonl", b" \n\r\n", "a.csv|a.jsonl", "Give a file"),
    "only a byte order mark": ("a.csv", b"\xef\xbb\xbf", "a.csv", "Give a file"),
    "header only": ("a.csv", HEADER, "a.csv", "below its header. Give a file"),
    "unknown extension": ("a.xlsx", b"PK\x03\x04", "a.xlsx", "save as CSV"),
    "no extension": ("a", HEADER, "a", "rename it"),
    "too many cells": ("a.csv", HEADER + "x,a\nhello, world,a\n", "a.csv:3", "double quotes"),
    "too few cells": ("a.csv", HEADER + "x,a\nhello\ny,b\n", "a.csv:3", "double quotes"),
    "cut off in the last row": ("a.csv", HEADER + "x,a\nhel", "a.csv:3", "export it again"),
    "unclosed quote": ("a.csv", HEADER + 'x,a\n"hello,b\ny,c\n', "a.csv:3", "close every quoted cell"),
    "text after a quote": ("a.csv", HEADER + 'x,a\n"big" dog,b\n', "a.csv:3", 'twice ("")'),
    "duplicate header": ("a.csv", "text,label,text\nx,a,y\n", "a.csv:1", "Rename"),
    "empty header name": ("a.csv", "\ntext,label,\nx,a,\n", "a.csv:2", "Give every column a name"),
    "header without the columns": ("a.csv", "foo,bar\nx,a\n", "a.csv", "data.text: COLUMN"),
    "another separator in the rows": ("a.csv", HEADER + "x;a\n", "a.csv:2", "double quotes"),
    "tsv with commas": ("a.tsv", HEADER + "x,a\n", "a.tsv", "data.text: COLUMN"),
    "empty text": ("a.csv", HEADER + "x,a\n  ,b\n", "a.csv:3", "fill it in or remove"),
    "empty label": ("a.csv", HEADER + '"x\ny",a\nz,\n', "a.csv:4", "fill it in or remove"),
    "NUL in a csv": ("a.csv", b"text,label\nx,a\nh\x00i,b\n", "a.csv:3", "Remove it"),
    "NUL in a jsonl": ("a.jsonl", JSON.encode() + b"\x00\x00\n", "a.jsonl:2", "Remove it"),
    "utf-16 without a mark": ("a.csv", HEADER.encode("utf-16-le"), "a.csv:1", "data.encoding: utf-16-le"),
    "broken utf-16": ("a.csv", HEADER.encode("utf-16") + b"\x00", "a.csv:", "Save the file as UTF-8"),
    "mixed encodings": ("a.csv", HEADER.encode() + "あ,い\n".encode() + "う,え\n".encode("cp932"), "a.csv:3", "UTF-8"),
    "latin-1": ("a.csv", HEADER.encode() + "café,a\n".encode("cp1252"), "a.csv:2", "data.encoding"),
    "bad JSON": ("a.jsonl", JSON + "{'text': 'x'}\n" + JSON, "a.jsonl:2", "double quotes"),
    "JSON line that is no object": ("a.jsonl", JSON + '["x", "a"]\n', "a.jsonl:2", "each row is an object"),
    "cut off in the last JSON line": ("a.jsonl", JSON + '{"text": "x", "la', "a.jsonl:2", "export it again"),
    "duplicate key": ("a.jsonl", '{"text": "x", "text": "y", "label": "a"}', "a.jsonl:1", "Correct this line"),
    "NaN": ("a.jsonl", JSON + '{"text": "x", "label": NaN}', "a.jsonl:2", "write null or a number"),
    "Infinity": ("a.json", '[{"text": "x", "label": -Infinity}]', "a.json:1", "write null or a number"),
    "half a character": ("a.jsonl", '{"text": "\\ud83d", "label": "a"}', "a.jsonl:1", "Correct this line"),
    "nested beyond reason": ("a.jsonl", '{"text": ' + "[" * 100_000, "a.jsonl:1", "Correct this line"),
    "a number of a million digits": ("a.jsonl", '{"text": "x", "label": ' + "1" * 10**6 + "}", "a.jsonl:1", "Correct"),
    "text of another type": ("a.jsonl", JSON + '{"text": 5, "label": "a"}', "a.jsonl:2", "correct or remove the row"),
    "label of another type": ("a.jsonl", JSON + '{"text": "x", "label": 0.5}', "a.jsonl:2", "a whole number"),
    "row without the label": ("a.jsonl", JSON + '{"text": "x"}', "a.jsonl:2", "fill it in or remove"),
    "JSON that is one object": ("a.json", JSON, "a.json:1", "rename it to .jsonl"),
    "JSON list cut off": ("a.json", '[{"text": "x",\n "label": "a"},\n', "a.json:3", "export it again"),
    "JSON list without its end": ("a.json", "[" + JSON, "a.json:2", "export it again"),
    "JSON list without a comma": ("a.json", "[" + JSON + JSON + "]", "a.json:2", "',' or ']' is missing"),
    "JSON list with a last comma": ("a.json", "[" + JSON + ",\n]", "a.json:3", "Correct this line"),
    "JSON after the list": ("a.json", "[" + JSON + "]\n[]", "a.json:3", "remove the rest"),
    "JSON list of texts": ("a.json", '["x"]', "a.json:1", "each row is an object"),
    "empty JSON list": ("a.json", "[]", "a.json", "Give a file"),
    "garbage for Parquet": ("a.parquet", b"PAR1" + b"garbage" * 9 + b"PAR1", "a.parquet", "Export it again"),
}


@pytest.mark.parametrize(("name", "data", "place", "remedy"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_file_is_told_by_place_and_remedy(tmp_path, name, data, place, remedy):
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    with pytest.raises(DataError) as caught:
        Data(train=str(path)).load("labelled", 0)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert any(str(tmp_path / option) in message for option in place.split("|")), message
    assert remedy in message, message
    assert len(message) < 1000


def test_a_truncated_parquet_file_is_told_by_place_and_remedy(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x"] * 1000, "label": ["a"] * 1000}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"a\.parquet is not a readable Parquet file .*Export it again"):
        Data(train=str(path)).load("labelled", 0)


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ("nothing.csv", "its folder holds no data file. Paths in a recipe are relative to the recipe."),
        ("no/folder/train.csv", "does not exist"),
        (".", "is a folder. Name one file in it"),
        ("a" * 300 + ".csv", "cannot be read"),
    ],
)
def test_a_path_that_is_no_file_is_told_with_its_remedy(tmp_path, source, remedy):
    data = Data.model_validate({"train": source}, context={"folder": tmp_path})
    with pytest.raises(DataError) as caught:
        data.load("labelled", 0)
    assert remedy in str(caught.value)
    assert str(tmp_path) in str(caught.value)


JAPANESE = "本文,ラベル\n返品したいのですが,はい\n"
LONG = "あ" * 100_000

# name of the case: (file, bytes, the first row)
ODD_BUT_VALID = {
    "byte order mark": ("a.csv", b"\xef\xbb\xbf" + b"text,label\nx,a\n", ("x", "a")),
    "CRLF": ("a.csv", b"text,label\r\nx,a\r\n", ("x", "a")),
    "CR alone": ("a.csv", b"text,label\rx,a\r", ("x", "a")),
    "no line end at the end": ("a.csv", b"text,label\nx,a", ("x", "a")),
    "utf-16": ("a.csv", JAPANESE.encode("utf-16"), ("返品したいのですが", "はい")),
    "cp932": ("a.csv", JAPANESE.encode("cp932"), ("返品したいのですが", "はい")),
    "euc_jp": ("a.csv", JAPANESE.encode("euc_jp"), ("返品したいのですが", "はい")),
    "iso2022_jp": ("a.csv", JAPANESE.encode("iso2022_jp"), ("返品したいのですが", "はい")),
    "NA as a label": ("a.csv", b"text,label\nx,NA\n", ("x", "NA")),
    "None as a text": ("a.csv", b"text,label\nNone,null\n", ("None", "null")),
    "100k characters": ("a.csv", f"text,label\n{LONG},a\n".encode(), (LONG, "a")),
    "quoted line ends": ("a.csv", b'text,label\n"x\r\ny\nz\r",a\n', ("x\r\ny\nz\r", "a")),
    "quoted quotes": ("a.csv", b'text,label\n"say ""hi""",a\n', ('say "hi"', "a")),
    "a quote inside a plain cell": ("a.csv", b'text,label\n5" pipe,a\n', ('5" pipe', "a")),
    "spaces around a text": ("a.csv", b"text,label\n  x ,a\n", ("  x ", "a")),
    "semicolons": ("a.csv", b"text;label\nx,y;a\n", ("x,y", "a")),
    "blank lines": ("a.csv", b"\n\ntext,label\n\nx,a\n\n", ("x", "a")),
    "line separator in JSON": ("a.jsonl", '{"text": "x\u2028y\x85", "label": "a"}'.encode(), ("x\u2028y\x85", "a")),
    "pair of escapes in JSON": ("a.jsonl", b'{"text": "\\ud83d\\ude00", "label": "a"}', ("😀", "a")),
    "width and compatibility forms": ("a.csv", "text,label\nｱ①〜～,a\n".encode(), ("ｱ①〜～", "a")),
}


@pytest.mark.parametrize(("name", "data", "expected"), ODD_BUT_VALID.values(), ids=ODD_BUT_VALID)
def test_an_odd_but_valid_file_is_read_to_the_character(tmp_path, name, data, expected):
    path = tmp_path / name
    path.write_bytes(data)
    dataset, _ = Data(train=str(path)).read(str(path), "labelled", need_target=True)
    assert dataset.rows[0].content == Labelled(*expected)
    assert len(dataset) == 1
