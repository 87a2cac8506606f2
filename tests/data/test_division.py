"""Shares taken by group, by time, in folds, near duplicates together."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from pydantic import ValidationError

from migaki.core.errors import DataError
from migaki.data import Data

TEXTS = ["the printer does not print", "my screen is black", "where is my parcel", "the invoice is wrong"]


def rows(n: int = 80):
    """A customer writes four times, on four days after one another; two labels."""
    return [
        {
            "text": f"{TEXTS[i % 4]} {i}",
            "label": "ab"[i // 2 % 2],
            "customer": f"c{i // 4}",
            "day": f"2026-{1 + i // 28:02}-{1 + i % 28:02}",
        }
        for i in range(n)
    ]


def loaded(data, **settings):
    splits = Data(train=data, **settings).load("labelled", 0)
    return {s.name: [row.place.line - 1 for row in s.rows] for s in (splits.train, splits.valid, splits.test)}, splits


def test_a_group_stands_in_one_split_only():
    data = rows()
    found, _ = loaded(data, split={"by": "customer"})
    customers = [{data[i]["customer"] for i in split} for split in found.values()]
    assert not customers[0] & customers[1]
    assert not customers[0] & customers[2]
    assert not customers[1] & customers[2]
    assert sorted(i for split in found.values() for i in split) == list(range(80))
    assert (len(found["test"]), len(found["valid"])) == (16, 8)


def test_equal_texts_of_two_groups_join_them():
    data = rows()
    data[4 * 4]["text"] = data[0]["text"]
    for seed in range(6):
        found, _ = loaded(data, split={"by": "customer"}, seed=seed)
        (home,) = [name for name, split in found.items() if 0 in split]
        assert set(range(4)) | set(range(16, 20)) <= set(found[home])


def test_the_order_of_the_file_does_not_change_who_is_in_which_split():
    data = rows()
    found, _ = loaded(data, split={"by": "customer"})
    turned, _ = loaded(data[::-1], split={"by": "customer"})
    assert {data[i]["text"] for i in found["test"]} == {data[::-1][i]["text"] for i in turned["test"]}


def test_the_newest_rows_are_test_and_the_newest_of_the_rest_valid():
    data = rows()[::-1]
    found, _ = loaded(data, split={"time": "day"})
    days = {name: [data[i]["day"] for i in split] for name, split in found.items()}
    assert max(days["train"]) < min(days["valid"])
    assert max(days["valid"]) < min(days["test"])
    assert (len(days["test"]), len(days["valid"])) == (16, 8)


def test_rows_of_one_moment_are_not_divided():
    data = rows()
    for row in data[56:72]:
        row["day"] = "2026/03/01 09:00"
    found, _ = loaded(data, split={"time": "day"}, valid=0.2)
    in_test = set(found["test"]) & set(range(56, 72))
    assert in_test in (set(), set(range(56, 72)))


def test_an_old_text_that_comes_again_later_is_told_as_a_leak():
    data = rows()
    data[-1]["text"] = data[0]["text"]
    _, splits = loaded(data, split={"time": "day"})
    assert any("1 of 16 test rows are also in train" in str(f) for f in splits.findings)


@pytest.mark.parametrize(
    ("value", "words"), [("soon", "'soon' in column 'day' is no time"), (None, "None in column"), (float("nan"), "nan")]
)
def test_a_time_that_cannot_be_read_names_its_row(value, words):
    data = rows()
    data[3]["day"] = value
    with pytest.raises(DataError, match=rf"train:4: .*{words}"):
        loaded(data, split={"time": "day"})


def test_every_row_is_a_test_row_in_exactly_one_fold_and_labels_are_balanced():
    data = rows()
    counted: Counter[int] = Counter()
    for fold in range(5):
        found, splits = loaded(data, split={"folds": 5, "fold": fold})
        counted.update(found["test"])
        assert len(found["test"]) == 16
        assert Counter(row.content.label for row in splits.test.rows) == {"a": 8, "b": 8}
        assert not set(found["test"]) & (set(found["train"]) | set(found["valid"]))
    assert counted == Counter(range(80))


def test_folds_keep_groups_whole():
    data = rows()
    for fold in range(4):
        found, _ = loaded(data, split={"folds": 4, "fold": fold, "by": "customer"})
        inside = {data[i]["customer"] for i in found["test"]}
        assert inside.isdisjoint(data[i]["customer"] for i in found["train"] + found["valid"])


def test_near_duplicates_stay_on_one_side():
    dice = random.Random(0)
    bodies = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz ", k=60)) for _ in range(40)]
    data = [
        {"text": f"{body} {word}", "label": "ab"[i % 2]} for i, body in enumerate(bodies) for word in ("now", "soon")
    ]
    found, _ = loaded(data, split={"near": 0.8})
    assert all(found.values())
    for split in found.values():
        assert all(i ^ 1 in split for i in split)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"split": {"time": "day", "by": "customer"}}, "time divides by itself"),
        ({"split": {"folds": 3, "fold": 3}}, "counted from 0 to 2"),
        ({"split": {"by": "customer"}, "valid": "v.csv", "test": "t.csv"}, "valid and test are both given"),
        ({"split": {"folds": 3}, "test": "t.csv"}, "test is a file"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(settings, words):
    with pytest.raises(ValidationError, match=words):
        Data(train=rows(), **settings)


@pytest.mark.parametrize("split", [{"by": "custmer"}, {"time": "custmer"}])
def test_a_column_that_is_not_there_is_named_with_the_nearest(split):
    with pytest.raises(DataError, match=r"the column 'custmer', which is not in train; .*customer"):
        loaded(rows(), split=split)


def test_a_row_without_a_group_is_refused():
    data = rows()
    data[5]["customer"] = " "
    with pytest.raises(DataError, match=r"train:6: column 'customer' is empty"):
        loaded(data, split={"by": "customer"})


def test_more_folds_than_groups_are_refused():
    with pytest.raises(DataError, match=r"folds is 30, but the rows form only 20 groups"):
        loaded(rows(), split={"folds": 30, "by": "customer"})
