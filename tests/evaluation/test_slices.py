"""Parts of the rows: which rows they hold, their figures by hand, their tests against scipy, and how often they cry wolf."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from migaki.core.types import Place, Prediction
from migaki.evaluation import accuracy_slices, error_slices, loss_slices, wilson
from migaki.evaluation.slices import fisher_exact, holm, rank_sum, script_of

tables = st.tuples(*[st.integers(0, 40)] * 4).filter(lambda t: t[0] + t[1] and t[2] + t[3])
values = st.lists(st.integers(0, 12), min_size=1, max_size=30)


def row(target, output, text="abc", source="rows.csv", loss=None, targets=0):
    return Prediction(Place(source, 1), output, target, loss=loss, targets=targets, text=text)


def found(slices, by, value):
    (one,) = [s for s in slices if (s["by"], s["value"]) == (by, value)]
    return one


def test_labels_by_hand():
    """a: 1 of 8 right, b: 8 of 8. Of the C(16, 9) = 11440 ways to place 9 hits, 8 give a at most 1 of them and 8 at
    least 8: C(8, 1) C(8, 8) = 8 tables and as many on the other side, so p = 16 / 11440, times 2 for two parts."""
    rows = [row("a", "a")] + [row("a", "b")] * 7 + [row("b", "b")] * 8
    first, second = accuracy_slices(rows)
    assert (first["by"], first["value"], first["worse"]) == ("label", "a", True)
    assert (first["figure"]["value"], first["figure"]["n"]) == (1 / 8, 8)
    assert (first["figure"]["low"], first["figure"]["high"]) == wilson(1, 8)
    assert (first["rest"]["value"], first["rest"]["n"]) == (1.0, 8)
    assert first["p"] == pytest.approx(2 * 16 / 11440)
    assert (second["value"], second["worse"]) == ("b", False)  # better than the rest is not worse


def test_a_difference_that_chance_explains_is_not_called_worse():
    rows = [row("a", "a")] * 5 + [row("a", "b")] * 3 + [row("b", "b")] * 7 + [row("b", "a")]
    assert [s["worse"] for s in accuracy_slices(rows)] == [False, False]
    assert [s["value"] for s in accuracy_slices(rows)] == ["a", "b"]  # the lower figure first


def test_what_is_surely_worse_comes_before_what_is_only_lower():
    """One row of c, wrong: accuracy 0, but one row proves nothing; a is wrong on 20 of 30."""
    rows = [row("a", "a")] * 10 + [row("a", "b")] * 20 + [row("b", "b")] * 60 + [row("c", "b")]
    slices = accuracy_slices(rows)
    assert [(s["value"], s["worse"]) for s in slices] == [("a", True), ("c", False), ("b", False)]


def test_lengths_are_thirds_and_equal_lengths_stay_together():
    rows = [row("a", "a", text="x" * n) for n in (1, 2, 2, 2, 3, 5, 5, 6, 7)]
    lengths = {s["value"]: s["figure"]["n"] for s in accuracy_slices(rows) if s["by"] == "length"}
    assert lengths == {"≤ 2": 4, "3–5": 3, "≥ 6": 2}


def test_files_are_parted_by_what_was_measured_on_them_and_not_by_their_paths():
    """Brightness 0.1 to 0.9 in thirds; all are equally wide, so width parts nothing."""
    rows = [
        replace(row("a", "a", text="x" * n), traits=(("brightness", n / 10), ("width", 64.0))) for n in range(1, 10)
    ]
    parts = {(s["by"], s["value"]): s["figure"]["n"] for s in accuracy_slices(rows)}
    assert parts == {("brightness", "≤ 0.3"): 3, ("brightness", "≤ 0.6"): 3, ("brightness", "> 0.6"): 3}


def spoken(speaker, errors, words, **traits):
    known = (("speaker", speaker), *traits.items())
    return replace(row("x", "y", source="calls.csv"), part=(errors, words), traits=known)


def test_who_speaks_is_a_part_beside_what_was_measured():
    """Ann: 3 errors in 12 words, Ben: 1 in 20. Both speak loudly and quietly, so loudness has both in its parts."""
    rows = [
        spoken("ann", 1.0, 4.0, level_db=-30.0),
        spoken("ann", 2.0, 8.0, level_db=-10.0),
        spoken("ben", 0.0, 10.0, level_db=-30.0),
        spoken("ben", 1.0, 10.0, level_db=-10.0),
    ]
    slices = error_slices(rows, seed=0)
    ann, ben = found(slices, "speaker", "ann"), found(slices, "speaker", "ben")
    assert (ann["figure"]["value"], ann["rest"]["value"]) == (3 / 12, 1 / 20)
    assert (ben["figure"]["value"], ben["figure"]["n"]) == (1 / 20, 2)
    quiet = found(slices, "level_db", "≤ -30")
    assert (quiet["figure"]["value"], quiet["rest"]["value"]) == (1 / 14, 3 / 18)


def test_a_speaker_who_is_misheard_is_found_and_a_row_without_words_has_no_rate():
    """Eight rows at 0.5 errors per word against eight at 0: rank-sum by scipy, times 2 parts."""
    rows = [spoken("ann", 2.0, 4.0)] * 8 + [spoken("ben", 0.0, 4.0)] * 8 + [spoken("ben", 1.0, 0.0)]
    first, second = error_slices(rows, seed=0)
    assert (first["by"], first["value"], first["worse"]) == ("speaker", "ann", True)
    theirs = stats.mannwhitneyu([0.5] * 8, [0.0] * 8, method="asymptotic").pvalue
    assert first["p"] == pytest.approx(2 * theirs)
    assert second["figure"]["value"] == 1 / 32  # the error on the row without words counts


def test_of_many_speakers_the_twenty_most_frequent_are_parts_and_the_others_are_one():
    rows = [spoken(f"speaker {i:02d}", 0.0, 1.0) for i in range(30) for _ in range(1 + (i < 20))]
    parts = {s["value"]: s["figure"]["n"] for s in error_slices(rows, seed=0)}
    assert len(parts) == 21
    assert parts["(all others)"] == 10
    assert parts["speaker 19"] == 2


def test_thirds_of_large_numbers_are_written_with_all_their_digits():
    rows = [replace(row("a", "a"), traits=(("rate_hz", hertz),)) for hertz in (8000.0, 16000.0, 44100.0)]
    assert {s["value"] for s in accuracy_slices(rows)} == {"≤ 8000", "≤ 16000", "> 16000"}


def test_source_files_and_scripts_are_parts_too():
    rows = [
        *[row("a", "a", text="画面が真っ暗です", source="ja.csv")] * 3,
        row("a", "b", text="screen", source="en.csv"),
        row("a", "a", text="screen", source="en.csv"),
        row("a", "b", text="PCの画面", source="en.csv"),
    ]
    slices = accuracy_slices(rows)
    assert found(slices, "source", "ja.csv")["figure"]["value"] == 1.0
    assert found(slices, "source", "en.csv")["figure"] == {
        "value": 1 / 3,
        **dict(zip(("low", "high"), wilson(1, 3), strict=True)),
        "n": 3,
    }
    assert found(slices, "source", "en.csv")["rest"]["n"] == 3
    assert {s["value"]: s["figure"]["n"] for s in slices if s["by"] == "script"} == {
        "japanese": 3,
        "latin": 2,
        "mixed": 1,
    }


def test_one_kind_of_rows_makes_no_part():
    assert accuracy_slices([row("a", "a"), row("a", "b")]) == []


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("naïve Übung", "latin"),
        ("ＡＢＣ", "latin"),  # full width
        ("ｶﾞｿﾘﾝ", "japanese"),  # half width
        ("々〆ヶー", "japanese"),
        ("𠮷野家", "japanese"),  # beyond the basic plane
        ("iPhoneを買う", "mixed"),
        ("３４５、。！", "other"),
        ("😀 + 1", "other"),
        ("한국어", "other"),
        ("", "other"),
    ],
)
def test_scripts_are_told_by_their_letters(text, script):
    assert script_of(text) == script


@given(tables)
@settings(max_examples=200, deadline=None)
def test_fishers_test_agrees_with_scipy(table):
    hits, misses, other_hits, other_misses = table
    theirs = stats.fisher_exact([[hits, misses], [other_hits, other_misses]]).pvalue
    assert fisher_exact(hits, hits + misses, other_hits, other_hits + other_misses) == pytest.approx(theirs, rel=1e-6)


def test_fishers_test_of_many_rows_is_a_number():
    assert fisher_exact(9_000, 10_000, 92_000, 100_000) == pytest.approx(
        stats.fisher_exact([[9_000, 1_000], [92_000, 8_000]]).pvalue, rel=1e-6
    )


@given(values, values)
@settings(max_examples=200, deadline=None)
def test_the_rank_sum_test_agrees_with_scipy(a, b):
    if len({*a, *b}) == 1:
        assert rank_sum(np.array(a), np.array(b)) == 1.0
        return
    theirs = stats.mannwhitneyu(a, b, method="asymptotic").pvalue
    assert rank_sum(np.array(a), np.array(b)) == pytest.approx(theirs, rel=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(deadline=None)
def test_holm_rejects_step_by_step(p_values):
    """The definition: go up the sorted p-values while p <= 0.05 / (tests left); what is below there is rejected."""
    left, rejected = len(p_values), set()
    for i in sorted(range(len(p_values)), key=lambda i: p_values[i]):
        if p_values[i] > 0.05 / left:
            break
        rejected.add(i)
        left -= 1
    corrected = holm(p_values)
    assert {i for i, p in enumerate(corrected) if p <= 0.05 + 1e-15} == rejected
    assert all(p <= c <= 1 for p, c in zip(p_values, corrected, strict=True))


def test_parts_of_a_model_that_is_equally_good_everywhere_are_rarely_called_worse():
    """Holm promises at most one false alarm in 20 evaluations; 300 of them may have 15 and 3 standard deviations of 3.8."""
    random = np.random.default_rng(3)
    alarms = 0
    for _ in range(300):
        targets = random.choice(list("abcdef"), size=200, p=[0.4, 0.2, 0.15, 0.15, 0.06, 0.04])
        right = random.random(200) < 0.8
        rows = [
            row(t, t if r else "z", text="x" * n, source=f"{s}.csv")
            for t, r, n, s in zip(targets, right, random.integers(1, 50, 200), random.integers(0, 2, 200), strict=True)
        ]
        alarms += any(s["worse"] for s in accuracy_slices(rows))
    assert alarms <= 15 + 12


def test_a_part_that_is_really_worse_is_found():
    """Japanese rows are right in 60 %, English ones in 95 %, 100 of each."""
    random = np.random.default_rng(0)
    rows = [row("a", "a" if random.random() < 0.95 else "b", text="screen") for _ in range(100)]
    rows += [row("a", "a" if random.random() < 0.60 else "b", text="画面") for _ in range(100)]
    first = accuracy_slices(rows)[0]
    assert (first["by"], first["worse"]) in {("script", True), ("length", True)}
    assert found(accuracy_slices(rows), "script", "japanese")["worse"]


def test_slices_of_losses_weigh_rows_by_their_tokens():
    """Two Japanese rows, 1 token at 4 nats and 9 at 1: 13 / 10. English: 20 tokens at 0.5."""
    rows = [
        row("", "", "画面", loss=4.0, targets=1),
        row("", "", "画面", loss=9.0, targets=9),
        *[row("", "", "screen", loss=1.0, targets=2)] * 10,
    ]
    japanese = found(loss_slices(rows, seed=0), "script", "japanese")
    assert japanese["figure"]["value"] == pytest.approx(1.3)
    assert (japanese["rest"]["value"], japanese["rest"]["n"]) == (pytest.approx(0.5), 10)
    assert japanese["figure"]["low"] == pytest.approx(1.0)
    # Losses per token 4 and 1 against ten times 0.5: the two highest ranks of twelve.
    n_parts = len(loss_slices(rows, seed=0))
    theirs = stats.mannwhitneyu([4.0, 1.0], [0.5] * 10, method="asymptotic").pvalue
    assert japanese["p"] == pytest.approx(theirs * n_parts)
    assert japanese["worse"]
    assert not found(loss_slices(rows, seed=0), "script", "latin")["worse"]
