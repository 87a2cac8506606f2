"""Splits: balanced, leak-free, and the same whatever the order of the rows."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migaki.core.errors import DataError
from migaki.core.types import Conversation, Dataset, Labelled, Place, Row, Turn
from migaki.data.splits import (
    check_labels_known,
    conflicting,
    rare_labels,
    repeats_between,
    repeats_within,
    split_off,
)


def rows_of(pairs, source="a.csv"):
    return [Row(Place(source, line), Labelled(text, label)) for line, (text, label) in enumerate(pairs, 2)]


def keys(rows):
    return {row.content.key() for row in rows}


def labels(rows):
    return Counter(row.content.label for row in rows)


def test_a_share_is_taken_of_every_label():
    rows = rows_of([(f"a{i}", "a") for i in range(100)] + [(f"b{i}", "b") for i in range(50)])
    kept, taken = split_off(rows, 0.2, 0, "test")
    assert labels(taken) == {"a": 20, "b": 10}
    assert labels(kept) == {"a": 80, "b": 40}


def test_remainders_of_small_labels_add_up_to_the_share():
    # 10 labels of 4 rows: 0.8 rows of each are 8 rows in all, so 8 of the 10 labels give one.
    rows = rows_of([(f"{label}{i}", str(label)) for label in range(10) for i in range(4)])
    _, taken = split_off(rows, 0.2, 0, "test")
    assert sorted(labels(taken).values()) == [1] * 8


def test_labels_that_cannot_be_divided_take_nothing_from_the_others():
    rows = rows_of([(f"single {i}", f"l{i}") for i in range(100)] + [(f"z{i}", "z") for i in range(10)])
    _, taken = split_off(rows, 0.2, 0, "test")
    assert labels(taken) == {"z": 2}


def test_the_kept_and_the_taken_rows_stand_in_their_old_order():
    rows = rows_of([(f"a{i}", "a") for i in range(50)])
    for part in split_off(rows, 0.3, 0, "test"):
        assert [row.place.line for row in part] == sorted(row.place.line for row in part)


def test_another_seed_or_name_takes_other_rows():
    rows = rows_of([(f"a{i}", "a") for i in range(100)])
    draws = [(0, "test"), (1, "test"), (0, "valid")]
    assert len({frozenset(keys(split_off(rows, 0.3, seed, name)[1])) for seed, name in draws}) == 3


def test_the_same_question_with_two_answers_stays_on_one_side():
    def row(line, question, answer):
        return Row(Place("a", line), Conversation((Turn("user", question), Turn("assistant", answer))))

    rows = [row(i, f"q{i // 2}", f"a{i}") for i in range(40)]
    kept, taken = split_off(rows, 0.25, 0, "test")
    assert len(taken) == 10
    assert not keys(kept) & keys(taken)


PAIRS = st.lists(st.tuples(st.integers(0, 40).map(str), st.sampled_from("abcd")), min_size=1, max_size=120)


@given(pairs=PAIRS, fraction=st.floats(0.01, 0.9), seed=st.integers(0, 5), order=st.randoms())
def test_a_split_is_a_partition_without_leaks_that_the_order_of_rows_does_not_change(pairs, fraction, seed, order):
    rows = rows_of(pairs)
    kept, taken = split_off(rows, fraction, seed, "test")
    assert sorted([*kept, *taken], key=lambda row: row.place.line) == rows
    assert not keys(kept) & keys(taken)
    shuffled = list(rows)
    order.shuffle(shuffled)
    assert keys(split_off(shuffled, fraction, seed, "test")[1]) == keys(taken)


@given(pairs=PAIRS, fraction=st.floats(0.01, 0.9))
def test_every_label_with_two_texts_of_its_own_stays_in_train(pairs, fraction):
    pairs = [(f"{label}{text}", label) for text, label in pairs]
    rows = rows_of(pairs)
    kept, _ = split_off(rows, fraction, 0, "test")
    assert set(labels(kept)) == {label for _, label in pairs}


@given(sizes=st.lists(st.integers(2, 60), min_size=1, max_size=8), fraction=st.floats(0.05, 0.5))
def test_without_duplicates_the_share_is_met_to_the_row(sizes, fraction):
    rows = rows_of([(f"{label}-{i}", str(label)) for label, size in enumerate(sizes) for i in range(size)])
    _, taken = split_off(rows, fraction, 0, "test")
    assert len(taken) == max(1, round(fraction * len(rows)))


def test_one_text_cannot_be_divided():
    rows = rows_of([("same", "a")] * 10)
    assert split_off(rows, 0.5, 0, "test") == (rows, [])


def test_groups_larger_than_the_share_still_give_the_smallest_one():
    rows = rows_of([("big", "a")] * 90 + [("small", "a")] * 10)
    assert labels(split_off(rows, 0.01, 0, "test")[1]) == {"a": 10}


def test_repeats_between_two_files_are_paired_with_their_first_copy():
    train = Dataset("train", tuple(rows_of([("x", "a"), ("y", "a"), ("x", "b")], "train.csv")))
    test = Dataset("test", tuple(rows_of([("z", "a"), ("x", "a")], "test.csv")))
    assert [(str(a.place), str(b.place)) for a, b in repeats_between(train, test)] == [("test.csv:3", "train.csv:2")]


def test_repeats_within_a_file_are_counted_without_their_first_copy():
    finding = repeats_within(rows_of([("x", "a"), ("y", "a"), ("x", "a"), ("x", "a")]))
    assert (finding.count, finding.examples) == (2, ("a.csv:4 = a.csv:2", "a.csv:5 = a.csv:2"))
    assert repeats_within(rows_of([("x", "a"), ("y", "a")])) is None


def test_a_text_under_two_labels_is_a_warning_with_one_place_for_each_label():
    finding = conflicting(rows_of([("x", "a"), ("x", "b"), ("x", "a"), ("y", "a")]))
    assert (finding.level, finding.count) == ("warning", 1)
    assert finding.examples == ("a.csv:2 (a), a.csv:3 (b)",)


def test_a_label_that_train_never_shows_is_an_error_with_its_rows():
    train = Dataset("train", tuple(rows_of([("x", "a")])))
    test = Dataset("test", tuple(rows_of([("y", "a"), ("z", "new")], "test.csv")))
    with pytest.raises(DataError, match=r"1 test rows have labels that no train row has: 'new' \(at test\.csv:3\)"):
        check_labels_known(train, test)
    check_labels_known(train, train)


def test_rare_labels_are_those_below_the_number():
    rows = rows_of([("1", "a"), ("2", "a"), ("3", "b")])
    assert rare_labels(rows, 2) == {"b"}
    assert rare_labels(rows, 1) == set()


def test_the_order_in_a_file_says_nothing_about_the_split():
    rows = rows_of([(f"{i}", "ab"[i % 2]) for i in range(1000)])
    shuffled = random.Random(1).sample(rows, len(rows))
    assert keys(split_off(rows, 0.1, 7, "test")[1]) == keys(split_off(shuffled, 0.1, 7, "test")[1])


def test_case_width_and_spaces_do_not_part_copies():
    """Half of the texts stand there twice, once in full-width capitals: both copies are always on one side."""
    wide = str.maketrans({ch: chr(ord(ch) + 0xFEE0) for ch in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"})
    plain = [(f"text number {n}", "ab"[n % 2]) for n in range(40)]
    rows = rows_of([*plain, *((text.upper().translate(wide), label) for text, label in plain[:20])])
    for seed in range(5):
        kept, taken = split_off(rows, 0.3, seed, "test")
        assert not {row.place.line % 40 for row in kept if row.place.line < 22 or row.place.line >= 42} & {
            row.place.line % 40 for row in taken if row.place.line < 22 or row.place.line >= 42
        }


def test_a_copy_in_capitals_is_a_leak_a_repeat_and_a_conflict():
    train, test = rows_of([("my screen", "a"), ("Ｍｙ  Screen", "b")]), rows_of([("MY SCREEN", "a")], "test.csv")
    (pair,) = repeats_between(Dataset("train", tuple(train)), Dataset("test", tuple(test)))
    assert (str(pair[0].place), str(pair[1].place)) == ("test.csv:2", "a.csv:2")
    assert repeats_within(train).examples == ("a.csv:3 = a.csv:2",)
    assert conflicting(train).examples == ("a.csv:2 (a), a.csv:3 (b)",)


def test_where_no_text_is_a_copy_the_draw_is_by_the_texts_themselves():
    """So the splits of earlier runs stay what they were."""
    rows = rows_of([(f"Text {n}", "ab"[n % 2]) for n in range(60)])
    assert split_off(rows, 0.3, 1, "test") == split_off(rows, 0.3, 1, "test", lambda row: row.content.key())
