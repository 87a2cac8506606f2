"""Corrected labels: which rows they reach, that no row changes its split for them, and that none is passed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from migaki.core.errors import DataError
from migaki.data import Data, write_records
from migaki.data.corrections import COLUMNS, read_corrections

ROWS = [{"text": f"{label} {i}", "label": label} for label in ("a", "b") for i in range(50)]


def correction(source_: str, number: int, **values: Any) -> dict[str, Any]:
    """An accepted suggestion for row `number` of ROWS, counted from 1 as in a list: a is to become b."""
    row = ROWS[number - 1]
    suggested = "b" if row["label"] == "a" else "a"
    found = {"accept": "yes", "kind": "relabel", "split": "train", "source": source_, "line": number, **row}
    return {**found, "suggested_label": suggested, "reason": "", **values}


def listed(folder: Path, *rows: dict[str, Any], name: str = "todo.csv") -> str:
    write_records(str(folder / name), rows, COLUMNS)
    return str(folder / name)


def labels_of(splits) -> dict[str, str]:
    return {row.content.text: row.content.label for s in (splits.train, splits.valid, splits.test) for row in s.rows}


def test_accepted_labels_are_corrected_counted_and_named(tmp_path):
    path = listed(
        tmp_path,
        correction("train", 1),
        correction("train", 2, accept="no"),
        correction("train", 3, accept=""),
        correction("train", 60, accept="Yes "),
        {"kind": "collect_more", "accept": "yes", "reason": "more of a"},
    )
    splits = Data(train=ROWS, corrections=path).load("labelled", 0)
    before = {row["text"]: row["label"] for row in ROWS}
    assert labels_of(splits) == {**before, "a 0": "b", "b 9": "a"}
    (finding,) = splits.findings
    assert (finding.level, finding.count) == ("note", 2)
    assert finding.message == f"2 labels are corrected by {path}, which suggests 4"
    assert finding.examples == ("train:1 a → b", "train:60 b → a")


def test_a_correction_moves_no_row_into_another_split(tmp_path):
    """Rows are drawn label by label; were they drawn by the new labels, the quotas and so the test rows would change."""
    plain = Data(train=ROWS).load("labelled", 0)
    path = listed(tmp_path, *(correction("train", line) for line in range(1, 30)))
    corrected = Data(train=ROWS, corrections=path).load("labelled", 0)
    for name in ("train", "valid", "test"):
        texts = [[row.content.text for row in getattr(splits, name).rows] for splits in (plain, corrected)]
        assert texts[0] == texts[1]
    assert plain.test.fingerprint() != corrected.test.fingerprint()


def test_rows_of_files_are_found_by_file_and_line_in_every_split(tmp_path):
    files = {}
    for name in ("train", "valid", "test"):
        write_records(str(tmp_path / f"{name}.csv"), [{**r, "text": f"{name} {r['text']}"} for r in ROWS], ("text",))
        files[name] = str(tmp_path / f"{name}.csv")
    # Below the header row 1 stands on line 2.
    rows = [correction(files[name], 1, line=2, text=f"{name} a 0") for name in files]
    splits = Data(**files, corrections=listed(tmp_path, *rows)).load("labelled", 0)
    assert [s.rows[0].content.label for s in (splits.train, splits.valid, splits.test)] == ["b", "b", "b"]
    assert splits.findings[0].count == 3


def test_json_lines_say_yes_with_true_and_lines_with_numbers(tmp_path):
    rows = [
        correction("train", 1, accept=True),
        correction("train", 2, accept=False),
        correction("train", 3, accept=None),
    ]
    path = listed(tmp_path, *rows, name="todo.jsonl")
    answers = read_corrections(path)
    assert [(c.place.line, c.suggested) for c in answers.accepted] == [(1, "b")]
    assert [record.values["line"] for record in answers.refused] == [2]
    assert answers.n_suggested == 3


def test_texts_that_a_table_has_to_quote_are_found_again(tmp_path):
    odd = [{"text": text, "label": "a"} for text in ('He said, "no"', "two\nlines", " spaced ", "返品; はい\r")]
    path = listed(tmp_path, *(correction("train", 1, line=101 + i, text=row["text"]) for i, row in enumerate(odd)))
    labels = labels_of(Data(train=[*ROWS, *odd], corrections=path).load("labelled", 0))
    assert {labels[row["text"]] for row in odd} == {"b"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"line": 7}], r"todo\.csv:2: there is no row 'a 0' at train:7.*changed since.*Write no under accept"),
        ([{"text": "a 00"}], r"todo\.csv:2: there is no row 'a 00' at train:1"),
        ([{"source": "other.csv"}], r"todo\.csv:2: there is no row 'a 0' at other\.csv:1"),
        ([{"label": "c"}], r"train:1 has the label 'a', and 'c' was to be corrected"),
        ([{"suggested_label": "bb"}], r"no row has the label 'bb'; "),
        ([{"suggested_label": ""}], r"suggested_label is empty.*fill it in, or write no"),
        ([{"line": "2nd"}], r"line is '2nd', not a number"),
        ([{"accept": "y"}], r"accept is 'y'; write yes or no"),
        ([{}, {"suggested_label": "a"}], r"train:1 is corrected twice, to different labels"),
        ([{"line": 7}, {"line": 8}], r"2 of 2 rows cannot be used.*todo\.csv:2.*todo\.csv:3"),
    ],
)
def test_a_correction_that_does_not_fit_is_named_with_its_place(tmp_path, rows, words):
    path = listed(tmp_path, *(correction("train", 1, **values) for values in rows))
    with pytest.raises(DataError, match=f"(?s){words}"):
        Data(train=ROWS, corrections=path).load("labelled", 0)


def test_a_label_that_is_right_by_now_is_no_error_and_not_counted(tmp_path):
    rows = [{**ROWS[0], "label": "b"}, *ROWS[1:]]
    splits = Data(train=rows, corrections=listed(tmp_path, correction("train", 1))).load("labelled", 0)
    assert (splits.findings[0].count, labels_of(splits)["a 0"]) == (0, "b")


def test_nothing_accepted_is_a_warning_that_says_how(tmp_path):
    path = listed(tmp_path, correction("train", 1, accept=""))
    (finding,) = Data(train=ROWS, corrections=path).load("labelled", 0).findings
    assert (finding.level, finding.count) == ("warning", 0)
    assert "suggests 1 labels and none is accepted" in finding.message
    assert "Write yes under accept" in finding.remedy


def test_data_that_moved_to_another_folder_is_found_by_the_name_of_its_file(tmp_path):
    (tmp_path / "new").mkdir()
    write_records(str(tmp_path / "new" / "train.csv"), ROWS, ("text", "label"))
    path = listed(tmp_path, correction("/old/train.csv", 1, line=2))
    splits = Data(train=str(tmp_path / "new" / "train.csv"), corrections=path).load("labelled", 0)
    assert labels_of(splits)["a 0"] == "b"


def test_two_files_of_one_name_are_not_guessed_between(tmp_path):
    files = []
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        files.append(str(tmp_path / folder / "rows.csv"))
        write_records(files[-1], ROWS, ("text", "label"))
    path = listed(tmp_path, correction("/old/rows.csv", 1, line=2))
    with pytest.raises(DataError, match=r"may be one of .*x/rows\.csv and .*y/rows\.csv; write the right file"):
        Data(train=files[0], test=files[1], corrections=path).load("labelled", 0)
    path = listed(tmp_path, correction(files[1], 1, line=2))
    splits = Data(train=files[0], test=files[1], corrections=path).load("labelled", 0)
    assert splits.test.rows[0].content.label == "b"
    assert {row.content.label for row in splits.train.rows if row.content.text == "a 0"} <= {"a"}


def test_a_misspelt_label_that_is_corrected_is_not_rare(tmp_path):
    rows = [*ROWS, {"text": "odd", "label": "aa"}]
    path = listed(tmp_path, correction("train", 1, line=101, text="odd", label="aa", suggested_label="a"))
    assert labels_of(Data(train=rows, min_rows_per_label=5, corrections=path).load("labelled", 0))["odd"] == "a"
    assert "odd" not in labels_of(Data(train=rows, min_rows_per_label=5).load("labelled", 0))


def test_labels_are_counted_as_they_are_corrected(tmp_path):
    """Four rows of c, one more by a correction, five wanted."""
    rows = [*ROWS, *({"text": f"c {i}", "label": "c"} for i in range(4))]
    path = listed(tmp_path, correction("train", 1, suggested_label="c"))
    labels = labels_of(Data(train=rows, min_rows_per_label=5, corrections=path).load("labelled", 0))
    assert sorted(text for text, label in labels.items() if label == "c") == ["a 0", "c 0", "c 1", "c 2", "c 3"]
    assert len(labels) == 104
    assert "c" not in labels_of(Data(train=rows, min_rows_per_label=5).load("labelled", 0)).values()


def test_a_text_under_two_labels_is_no_conflict_once_corrected(tmp_path):
    rows = [*ROWS, {"text": "a 0", "label": "b"}]
    path = listed(tmp_path, correction("train", 1))
    messages = [f.message for f in Data(train=rows, corrections=path).load("labelled", 0).findings]
    assert not any("more than one label" in message for message in messages)
    assert any("more than one label" in f.message for f in Data(train=rows).load("labelled", 0).findings)


def test_another_file_is_no_list_of_corrections(tmp_path):
    write_records(str(tmp_path / "rows.csv"), ROWS, ("text", "label"))
    with pytest.raises(
        DataError, match=r"rows\.csv is no list of corrections: it has no column 'accept'.*--errors FILE"
    ):
        Data(train=ROWS, corrections=str(tmp_path / "rows.csv")).load("labelled", 0)


def test_conversations_have_no_labels_to_correct(tmp_path):
    rows = [{"prompt": f"q{i}", "completion": "a"} for i in range(20)]
    with pytest.raises(DataError, match=r"data\.corrections holds labels.*Remove it"):
        Data(train=rows, corrections=listed(tmp_path, correction("train", 1))).load("conversation", 0)


def test_the_path_is_relative_to_the_recipe(tmp_path):
    data = Data.model_validate({"train": ROWS, "corrections": "todo.csv"}, context={"folder": tmp_path})
    assert data.corrections == str(tmp_path / "todo.csv")
    with pytest.raises(ValidationError, match="the path is empty; give the file of corrections"):
        Data(train=ROWS, corrections=" ")
