"""How several labels, and two texts, are read."""

from __future__ import annotations

from typing import Any

import pytest

from migaki.core.errors import DataError
from migaki.core.types import Labelled, MultiLabelled
from migaki.data import Data
from migaki.data.formats import READERS
from sentences import several_rows

several, labelled = READERS["multi_labelled"], READERS["labelled"]


def read(reader: Any, values: dict[str, Any], need_target: bool = True, **named: str) -> Any:
    return reader(values, reader.choose(list(values), named, need_target), need_target)


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        (["b", "a", "b"], ("a", "b")),
        ('["a, b", "c"]', ("a, b", "c")),
        ("b|a", ("a", "b")),
        ("b; a", ("a", "b")),
        ("b,a", ("a", "b")),
        ("Sales, EU|Legal", ("Legal", "Sales, EU")),
        ("請求、配送", ("請求", "配送")),
        ("a", ("a",)),
        ([3, 2.0, True], ("2", "3", "true")),
        (7, ("7",)),
        ("", ()),
        ([], ()),
        (None, ()),
    ],
)
def test_labels_are_read_from_a_list_or_a_divided_text(cell, labels):
    assert read(several, {"text": "x", "labels": cell}) == MultiLabelled("x", labels)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("[a", "begins like a JSON list and is none"),
        ([{"a": 1}], "a label is a word or a whole number"),
        ([1.5], "a label is a word or a whole number"),
    ],
)
def test_what_is_no_label_is_told(cell, words):
    with pytest.raises(ValueError, match=words):
        read(several, {"text": "x", "labels": cell})


def test_a_row_without_the_column_is_no_row_without_labels():
    with pytest.raises(ValueError, match=r"there is no 'labels'; write \[\] where no label is right"):
        several({"text": "x"}, {"text": "text", "label": "labels"}, True)
    assert several({"text": "x"}, {"text": "text", "label": "labels"}, False) == MultiLabelled("x", None)


def test_where_cells_were_divided_is_told():
    rows = [*({"text": f"x {i}", "labels": "a|b" if i % 2 else "a"} for i in range(20))]
    findings = Data(train=rows).load("multi_labelled", 0).findings
    (found,) = [f for f in findings if "divided" in f.message]
    assert "divided at '|' in 10 rows" in found.message
    assert found.examples[0] == "train:2: 'a|b'"


def test_a_list_where_one_label_belongs_names_the_task_for_it():
    with pytest.raises(ValueError, match="several labels for one text are learned by task: label_text"):
        read(labelled, {"text": "x", "label": ["a"]})


def test_rows_without_any_label_are_refused():
    with pytest.raises(DataError, match="None of the 14 train rows has a label"):
        Data(train=[{"text": f"x {i}", "labels": []} for i in range(20)]).load("multi_labelled", 0)


def test_a_label_that_only_test_rows_have_is_named():
    with pytest.raises(DataError, match="1 test rows have labels that no train row has: 'new'"):
        Data(train=several_rows(20), test=[{"text": "t", "labels": ["new", "billing"]}]).load("multi_labelled", 0)


def test_equal_texts_with_other_labels_are_found():
    rows = [*several_rows(20), {"text": "twice", "labels": ["billing"]}, {"text": "twice", "labels": []}]
    (found,) = [f for f in Data(train=rows).load("multi_labelled", 0).findings if "more than one label" in f.message]
    assert found.examples == ("train:21 (billing), train:22 (none)",)


def test_a_minimum_of_rows_for_each_label_is_refused_where_rows_have_several():
    with pytest.raises(DataError, match="a row of this task may have other labels too"):
        Data(train=several_rows(20), min_rows_per_label=3).load("multi_labelled", 0)


@pytest.mark.parametrize(
    ("names", "text", "pair"),
    [
        (["text", "text_pair", "label"], "text", "text_pair"),
        (["premise", "hypothesis", "label"], "premise", "hypothesis"),
        (["sentence1", "Sentence2", "label"], "sentence1", "Sentence2"),
        (["question1", "question2", "label"], "question1", "question2"),
        (["前提", "仮説", "ラベル"], "前提", "仮説"),
    ],
)
def test_a_second_text_is_found_beside_its_usual_partner(names, text, pair):
    for reader in (labelled, several):
        found = reader.choose(names, {})
        assert (found["text"], found["text_pair"]) == (text, pair)


@pytest.mark.parametrize("names", [["text", "hypothesis", "label"], ["question", "text2", "label"], ["text", "label"]])
def test_no_second_text_is_guessed_beside_another_column(names):
    assert "text_pair" not in labelled.choose(names, {})


def test_a_named_second_text_counts_and_an_empty_one_is_told():
    found = read(labelled, {"q": "a", "a": "b", "label": "x"}, text="q", text_pair="a")
    assert found == Labelled("a", "x", "b")
    with pytest.raises(ValueError, match="the text in column 'a' is empty"):
        read(labelled, {"q": "a", "a": " ", "label": "x"}, text="q", text_pair="a")


def test_a_pair_is_a_copy_only_if_both_texts_are_the_same():
    one, other, third = Labelled("a", "x", "b c"), Labelled("a b", "x", "c"), Labelled("a", "y", "b c")
    assert one.key() != other.key()
    assert one.key() == third.key()
    assert one.key() != Labelled("a", "x").key()


def test_a_single_text_has_the_fingerprint_it_always_had():
    assert Labelled("a", "x").as_json() == {"text": "a", "label": "x"}
    assert Labelled("a", "x", "b").as_json() == {"text": "a", "text_pair": "b", "label": "x"}


def test_cleaning_reaches_both_texts():
    assert Labelled("A", "X", "B").mapped(str.lower) == Labelled("a", "X", "b")
    assert MultiLabelled("A", ("X",), "B").mapped(str.lower) == MultiLabelled("a", ("X",), "b")
