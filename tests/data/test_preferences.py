"""Answers that were compared or found good or bad: every usual form gives the same row."""

import json

import pytest

from migaki.core.types import Judged, Preferred, Record, Turn
from migaki.data import Data
from migaki.data.formats import READERS

preferred, judged = READERS["preferred"], READERS["judged"]
USER, SYSTEM = Turn("user", "q"), Turn("system", "s")
ASKED = [{"role": "user", "content": "q"}]


def said(text):
    return [{"role": "assistant", "content": text}]


def read(reader, values, need_target=True, **named):
    return reader(values, reader.choose(list(values), named, need_target), need_target)


PAIRS = {
    "texts": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "messages": {"prompt": ASKED, "chosen": said("a"), "rejected": said("b")},
    "whole conversations": {"chosen": ASKED + said("a"), "rejected": ASKED + said("b")},
    "whole conversations beside their prompt": {
        "prompt": "q",
        "chosen": ASKED + said("a"),
        "rejected": ASKED + said("b"),
    },
    "OpenAI": {
        "input": {"messages": ASKED, "tools": [], "parallel_tool_calls": True},
        "preferred_output": said("a"),
        "non_preferred_output": said("b"),
    },
    "ShareGPT": {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    },
    "JSON in cells": {"prompt": "q", "chosen": json.dumps(said("a")), "rejected": json.dumps(said("b"))},
}


@pytest.mark.parametrize("values", PAIRS.values(), ids=PAIRS)
def test_every_form_of_a_comparison_gives_the_same_row(values):
    assert read(preferred, values) == Preferred((USER,), "a", "b")


@pytest.mark.parametrize("values", PAIRS.values(), ids=PAIRS)
def test_a_system_column_comes_first_in_every_comparison(values):
    assert read(preferred, {**values, "system": "s"}) == Preferred((SYSTEM, USER), "a", "b")


def test_what_was_said_before_stays_in_front_of_the_question():
    before = [*ASKED, *said("a0"), {"role": "user", "content": "again"}]
    values = {"prompt": "again", "chosen": before + said("a"), "rejected": before + said("b")}
    assert read(preferred, values).prompt == (USER, Turn("assistant", "a0"), Turn("user", "again"))


def test_a_text_that_begins_like_a_list_is_an_answer():
    assert read(preferred, {"prompt": "q", "chosen": "[1, 2]", "rejected": "[]"}) == Preferred((USER,), "[1, 2]", "[]")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"prompt": "q", "chosen": "a"}, "no column looks like the rejected.*data.rejected: COLUMN"),
        ({"prompt": "q", "chosen": "a", "rejected": " "}, "the rejected in column 'rejected' is empty"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "the prompt in column 'prompt' is empty"),
        ({"chosen": "a", "rejected": "b"}, "no column looks like their question.*data.prompt"),
        ({"prompt": "q", "chosen": 1, "rejected": "b"}, "is 1, not a text"),
        ({"prompt": "q", "chosen": ASKED, "rejected": said("b")}, "does not end with the assistant's answer"),
        (
            {"chosen": ASKED + said("a"), "rejected": [{"role": "user", "content": "other"}, *said("b")]},
            "different questions",
        ),
        ({"prompt": "other", "chosen": ASKED + said("a"), "rejected": ASKED + said("b")}, "is not the question"),
        ({"prompt": ASKED + said("x"), "chosen": "a", "rejected": "b"}, "the prompt ends with an answer"),
        (
            {"input": {"messages": ASKED, "tools": [{"type": "function"}]}, "chosen": "a", "rejected": "b"},
            "column 'tools' offers tools",
        ),
        (
            {"prompt": [{"role": "system", "content": "x"}, *ASKED], "chosen": "a", "rejected": "b", "system": "s"},
            "both hold a system prompt",
        ),
    ],
)
def test_a_comparison_that_cannot_be_learned_from_is_refused_in_words(values, words):
    with pytest.raises(ValueError, match=words):
        read(preferred, values)


def test_a_question_alone_can_be_read_where_no_answer_is_needed():
    assert read(preferred, {"prompt": "q"}, need_target=False).prompt == (USER,)


def test_equal_answers_are_counted_and_named(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "a" if i == 3 else "b"} for i in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = Data(train=str(path)).load("preferred", 0).findings
    assert (found.level, found.count, found.examples) == ("warning", 1, (f"{path}:4",))


VERDICTS = {
    "KTO": {"prompt": "q", "completion": "a", "label": True},
    "KTO as CSV": {"prompt": "q", "completion": "a", "label": "True"},
    "numbers": {"prompt": "q", "completion": "a", "label": 1.0},
    "messages": {"messages": ASKED + said("a"), "kto_tag": True},
    "question and answer": {"question": "q", "answer": "a", "label": "yes"},
}


@pytest.mark.parametrize("values", VERDICTS.values(), ids=VERDICTS)
def test_every_form_of_a_verdict_gives_the_same_row(values):
    assert read(judged, values) == Judged((USER,), "a", True)


@pytest.mark.parametrize("label", ["", None, 2, "maybe", 0.5, [True]])
def test_what_does_not_say_good_or_bad_is_refused(label):
    with pytest.raises(ValueError, match="true or false"):
        read(judged, {"prompt": "q", "completion": "a", "label": label})


def test_good_and_bad_answers_are_spread_over_the_splits(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"prompt": f"q{i}", "completion": "a", "label": i % 4 == 0} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = Data(train=str(path)).load("judged", 0)
    # One in four is good: 2 of the 8 test rows.
    assert sum(row.content.good for row in splits.test.rows) == 2


def test_a_change_of_texts_reaches_questions_and_answers():
    assert Preferred((USER,), "a", "b").mapped(str.upper) == Preferred((Turn("user", "Q"),), "A", "B")
    assert Judged((USER,), "a", False).mapped(str.upper) == Judged((Turn("user", "Q"),), "A", False)


def test_a_row_without_columns_to_compare_has_no_remarks():
    record = Record(None, {"chosen": "a", "rejected": "b"})
    assert preferred.remarks([record], {"chosen": "chosen", "rejected": "rejected"}) == []
