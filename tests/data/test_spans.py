"""How named parts are read: spans in characters, tokens with tags, CoNLL files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from migaki.core.errors import DataError
from migaki.core.types import Span, Tagged
from migaki.data import Data
from migaki.data.formats import READERS
from migaki.data.sources import read_records
from migaki.data.spans import joined_tokens, spans_of_tags
from sentences import tagged_rows

reader = READERS["tagged"]


def read(values: dict[str, Any], need_target: bool = True, **named: str) -> Tagged:
    return reader(values, reader.choose(list(values), named, need_target), need_target)


@pytest.mark.parametrize(
    "spans",
    [
        [{"start": 3, "end": 6, "label": "PERSON"}],
        [{"start_offset": 3, "end_offset": 6, "label": "PERSON", "id": 7}],
        [[3, 6, "PERSON"]],
        '[[3, 6, "PERSON"]]',
        [{"start": 3, "end": 6, "labels": ["x"], "label": ["PERSON"]}],
        [{"start": 3.0, "end": 6.0, "entity_group": "PERSON"}],
    ],
)
def test_a_span_may_be_written_as_people_write_them(spans):
    assert read({"text": "to Aki now", "spans": spans}) == Tagged("to Aki now", (Span(3, 6, "PERSON"),))


def test_characters_are_code_points_so_that_japanese_and_emoji_count_one_each():
    text = "👩の京都"
    assert read({"text": text, "entities": [[2, 4, "PLACE"]]}).spans == (Span(2, 4, "PLACE"),)
    assert text[2:4] == "京都"


def test_spans_come_in_order_and_without_the_white_space_at_their_ends():
    found = read({"text": "Aki and Ben", "spans": [[7, 11, "P"], [0, 4, "P"]]})
    assert found.spans == (Span(0, 3, "P"), Span(8, 11, "P"))


def test_a_text_in_which_nothing_is_named_is_a_row():
    assert read({"text": "nothing", "spans": []}).spans == ()
    assert read({"text": "nothing", "spans": ""}).spans == ()


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        ([[0, 9, "P"]], "does not lie in the 7 characters of its text; count characters"),
        ([[3, 3, "P"]], "does not lie in"),
        ([[-1, 3, "P"]], "does not lie in"),
        ([[0, 3, "P"], [2, 5, "Q"]], r"P 'Aki' \(0 to 3\) and Q 'i r' \(2 to 5\) stand on the same characters"),
        ([{"start": 0, "end": 3}], "is no span; write"),
        ([[0, 3, None]], "is no span; write"),
        ([["0", 3, "P"]], "is no span; write"),
        ([True], "is no span; write"),
        ([{"start": 0, "end": 3, "label": "P", "text": "Abc"}], "holds 'Aki' and not its own text 'Abc'"),
        ([[3, 4, "P"]], "holds only white space"),
        ("{broken", "is not a JSON list of spans"),
        ({"a": 1}, "not a list of spans"),
        (None, r"is empty; write \[\] where nothing is to be found"),
    ],
)
def test_a_span_that_cannot_be_meant_is_told_with_the_remedy(spans, words):
    with pytest.raises(ValueError, match=words):
        read({"text": "Aki ran", "spans": spans})


def test_tags_of_every_scheme_become_spans():
    """BIO, IOB1 and BIOES say the same three parts of seven tokens: 0-1 A, 2 A, 4-6 B."""
    wanted = [Span(0, 2, "A"), Span(2, 3, "A"), Span(4, 7, "B")]
    places = [(i, i + 1) for i in range(7)]
    for tags in (
        "B-A I-A B-A O B-B I-B I-B",
        "I-A I-A B-A O I-B I-B I-B",
        "B-A E-A S-A O B-B I-B E-B",
        "B-A L-A U-A O B-B I-B L-B",
    ):
        assert list(spans_of_tags(tags.split(), places)) == wanted, tags


def test_tokens_are_joined_with_spaces_but_not_between_japanese():
    text, places = joined_tokens(["私", "は", "Aki", "です", "。"])
    assert text == "私は Aki です。"
    assert [text[a:b] for a, b in places] == ["私", "は", "Aki", "です", "。"]


def test_tokens_and_tags_are_read_also_from_cells_of_a_table():
    wanted = Tagged("Aki is in Kyoto", (Span(0, 3, "P"), Span(10, 15, "L")))
    tokens, tags = ["Aki", "is", "in", "Kyoto"], ["B-P", "O", "O", "B-L"]
    assert read({"tokens": tokens, "ner_tags": tags}) == wanted
    assert read({"words": " ".join(tokens), "tags": json.dumps(tags)}) == wanted


def test_tokens_are_looked_up_in_the_text_where_it_is_there():
    found = read(
        {"text": "Aki  (Ben).", "tokens": ["Aki", "(", "Ben", ")", "."], "tags": ["B-P", "O", "B-P", "O", "O"]}
    )
    assert found == Tagged("Aki  (Ben).", (Span(0, 3, "P"), Span(6, 9, "P")))
    with pytest.raises(ValueError, match="token 2, 'x', does not stand in the text behind character 3"):
        read({"text": "Aki  y", "tokens": ["Aki", "x"], "tags": ["O", "O"]})


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        (["B-P"], "2 tokens and 1 tags"),
        (["B-P", 0], "write the names of the tags"),
        (["B-P", "X-P"], "'X-P' is no tag"),
        (["B-P", "P"], "'P' is no tag"),
        ([], "not a list of tags"),
    ],
)
def test_tags_that_do_not_fit_are_told(tags, words):
    with pytest.raises(ValueError, match=words):
        read({"tokens": ["Aki", "ran"], "tags": tags})


def test_a_row_that_is_only_to_be_predicted_needs_no_spans():
    assert read({"text": "Aki ran"}, need_target=False) == Tagged("Aki ran", None)
    assert read({"tokens": ["Aki", "ran"]}, need_target=False) == Tagged("Aki ran", None)
    with pytest.raises(ValueError, match="no column looks like the spans"):
        read({"text": "Aki ran"})


def test_a_conll_file_gives_each_sentence_with_its_first_line(tmp_path: Path):
    path = tmp_path / "a.conll"
    path.write_text(
        "-DOCSTART- -X- O\n\nAki NNP B-P\nran VBD O\n\n\n# id 7\ndomain=en\n".replace("domain=en\n", "")
        + "Ben\tNNP\tB-P\nLee\tNNP\tI-P\n\n# O\nhash O\n",
        encoding="utf-8",
    )
    table = read_records(str(path))
    assert [(r.place.line, r.values["tokens"], r.values["tags"]) for r in table.records] == [
        (3, ["Aki", "ran"], ["B-P", "O"]),
        (8, ["Ben", "Lee"], ["B-P", "I-P"]),
        (11, ["#", "hash"], ["O", "O"]),
    ]


def test_a_line_of_a_conll_file_with_other_columns_is_told_by_its_number(tmp_path: Path):
    path = tmp_path / "a.bio"
    path.write_text("Aki B-P\nran\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.bio:2: 'ran' has 1 columns, not 2 columns as line 1"):
        read_records(str(path))


def test_rows_with_spans_are_loaded_and_every_label_of_test_is_in_train(tmp_path: Path):
    rows = [*tagged_rows(30), *tagged_rows(30, "ja")]
    splits = Data(train=rows, valid=0.2, test=0.2).load("tagged", 0)
    labels = {
        name: {label for row in getattr(splits, name).rows for label in row.content.names()}
        for name in ("train", "test")
    }
    assert labels == {"train": {"PERSON", "PLACE"}, "test": {"PERSON", "PLACE"}}
    assert all(
        row.content.text[s.start : s.end]
        for name in ("train", "valid", "test")
        for row in getattr(splits, name).rows
        for s in row.content.spans
    )


def test_cleaning_is_refused_because_it_would_move_the_parts():
    with pytest.raises(DataError, match=r"data\.clean changes texts, but this task counts the characters"):
        Data(train=tagged_rows(9), clean=[{"kind": "spaces"}]).load("tagged", 0)


def test_spans_with_white_space_at_their_ends_are_counted_and_shown():
    rows = [{"text": "Aki and Ben", "spans": [[0, 4, "P"], [8, 11, "P"]]}, *tagged_rows(20)]
    findings = Data(train=rows).load("tagged", 0).findings
    (found,) = [f for f in findings if "white space" in f.message]
    assert (found.count, found.examples) == (1, ("train:1: P 'Aki '",))
