"""A file that is too large for the memory: the same findings, in one pass and a few bytes a row."""

from __future__ import annotations

import json
import subprocess
import sys
from array import array

import pyarrow as pa
import pytest

from migaki.audit.large import _Counts, _equal, _Lines
from migaki.cli import main
from migaki.core.types import Labelled, Place, Record, Row
from migaki.data import read_records
from migaki.data.streaming import iter_records


def rows(n: int):
    for i in range(n):
        yield {"text": f"row {i}: {'画面' * (i % 5)} the {i * 7919 % 1009} of {i * 104729 % 997}", "label": "ab"[i % 2]}


@pytest.fixture
def everything_is_large(monkeypatch):
    """Every file is gone through line by line."""
    monkeypatch.setattr("migaki.audit.look.LARGE_BYTES", 1)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.jsonl.gz", "a.csv.zst"])
def test_records_are_those_that_are_read_at_once(tmp_path, name):
    found = [
        {"text": 'a "quoted", text\nof two lines' if i == 3 else row["text"], "label": row["label"]}
        for i, row in enumerate(rows(40))
    ]
    path = tmp_path / name
    if ".jsonl" in name:
        content = "\ufeff" + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    else:
        separator = "\t" if ".tsv" in name else ","
        quoted = [[row[key].replace('"', '""') for key in ("text", "label")] for row in found]
        content = "".join(separator.join(f'"{cell}"' for cell in line) + "\n" for line in [["text", "label"], *quoted])
    codec = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    with pa.output_stream(str(path), compression=codec) as stream:
        stream.write(content.encode())
    assert list(iter_records(str(path))) == list(read_records(str(path)).records)


def test_a_row_that_cannot_be_read_is_named_and_the_others_are_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": \n[1]\n{"text": "b"}\n', encoding="utf-8")
    first, second, third, fourth = iter_records(str(path))
    assert isinstance(first, Record)
    assert isinstance(fourth, Record)
    assert second.startswith(f"{path}:2: is not valid JSON")
    assert "not an object" in third


def test_the_command_finds_what_is_planted(tmp_path, capsys, everything_is_large):
    path = tmp_path / "large.jsonl"
    planted = list(rows(400))
    planted[100] = dict(planted[7])
    planted[200]["text"] += " call 03-1234-5678"
    planted[300]["label"] = "A"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in planted), encoding="utf-8")
    assert main(["data", "check", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    lights = {light["name"]: light for light in said["lights"]}
    assert lights["repeats"]["examples"] == [f"{path}:101 = {path}:8"]
    assert lights["personal data"]["examples"] == [f"{path}:201 (phone)"]
    assert "'A' (1" in lights["label spelling"]["examples"][0]
    assert said["facts"]["rows"]["train"] == 400
    assert said["facts"]["labels"]["a"]["train"] + said["facts"]["labels"]["b"]["train"] == 399


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"text": "a", "label": "x"}\n{"text": "", "label": "y"}\n', ":2: the text in column 'text' is empty"),
        (
            '{"text": "画面", "label": "x"}\n'.encode("cp932") * 3,
            ":1: the byte 0x89 is not .*name the right one: data.encoding: cp932",
        ),
        (b'{"text": "a", "label": "x"}\n{"text"\n', "1 of 2 rows cannot be used"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_line(tmp_path, capsys, everything_is_large, content, words):
    path = tmp_path / "large.jsonl"
    path.write_bytes(content)
    assert main(["data", "check", str(path), "--task", "classify_text"]) == 2
    import re

    assert re.search(words, capsys.readouterr().err.replace("\n", " "))


def test_equal_hashes_are_paired_in_the_order_of_a_sort() -> None:
    """Three of one value are two pairs, each with the one before it; parts of the values are gone through in order."""
    hashes = array("Q", [1 << 63, 7, (1 << 64) - 1, 7, 1 << 63, 9, 7, (1 << 64) - 1])
    found = [pair for earlier, later in _equal(hashes) for pair in zip(earlier.tolist(), later.tolist(), strict=True)]
    assert found == [(1, 3), (3, 6), (0, 4), (2, 7)]


def test_the_line_of_a_row_is_known_behind_blank_lines_and_rows_of_several_lines():
    stand = [2, 3, 4, 9, 10, 12, 30, 31]
    lines = _Lines()
    for line in stand:
        lines.add(line)
    assert [lines[row] for row in range(len(stand))] == stand


@pytest.mark.parametrize(("rows", "characters", "kept"), [(4, 1 << 20, range(0, 24, 4)), (100, 70, range(0, 24, 4))])
def test_a_sample_is_thinned_evenly_where_it_has_too_many_rows_or_too_much_text(monkeypatch, rows, characters, kept):
    """24 texts of 10 characters: more than twice 4 rows, or more than 70 characters, and every second one goes."""
    monkeypatch.setattr("migaki.audit.large._SAMPLE", rows)
    monkeypatch.setattr("migaki.audit.large._SAMPLE_CHARACTERS", characters)
    counts = _Counts()
    for i in range(24):
        counts.add(Row(Place("x", i + 1), Labelled(f"text {i:05}", "a")))
    assert [text for _, text in counts.sample] == [f"text {i:05}" for i in kept]


def test_lengths_are_those_of_the_sorted_texts():
    counts = _Counts()
    for n in (5, 1, 9, 2, 5, 8):
        counts.add(Row(Place("x", 1), Labelled("a" * n, "a")))
    # Sorted: 1 2 5 5 8 9; half of six is the fourth, 0.95 of six the sixth.
    assert [counts.length_at(share) for share in (0.0, 0.5, 0.95, 1.0)] == [1, 5, 9, 9]


@pytest.mark.slow
def test_two_gigabytes_are_checked_in_half_a_gigabyte_of_memory(tmp_path):
    """Some minutes: 2 GB of JSON lines, and the most memory that the process had."""
    path = tmp_path / "large.jsonl"
    filler = " ".join(f"word{i}" for i in range(60))
    size, number = 0, 0
    with path.open("w", encoding="utf-8") as file:
        while size < 2 << 30:
            line = (
                json.dumps({"text": f"{number * 7919 % 1000003} {filler} {number}", "label": f"l{number % 50}"}) + "\n"
            )
            size += file.write(line)
            number += 1
    script = (
        "import sys; from migaki.cli import main; from migaki.training.monitor import peak_bytes; "
        "code = main(sys.argv[1:]); print(code, peak_bytes())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "data", "check", str(path)], capture_output=True, text=True, check=True
    )
    code, peak = done.stdout.split()[-2:]
    assert (code, int(peak) < 500e6) == ("0", True)
