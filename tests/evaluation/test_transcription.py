"""Errors over words and characters: worked out by hand, and as jiwer counts them."""

from __future__ import annotations

from dataclasses import replace

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migaki.core.errors import DataError
from migaki.core.types import Place, Prediction
from migaki.evaluation.gain import gain
from migaki.evaluation.transcription import (
    aligned,
    loops,
    plain_speech,
    transcription,
    transcription_scores,
    units_of,
)

WORDS = st.lists(st.sampled_from(["one", "two", "three", "press", "now"]), min_size=1, max_size=8).map(" ".join)


def said(target: str | None, output: str, line: int = 1, **facts) -> Prediction:
    return Prediction(Place("calls.csv", line), output, target, **facts)


def test_one_word_of_four_replaced_and_one_added_is_a_rate_of_one_half():
    found = transcription([said("press one to record", "press two to record now")], 0)
    assert found.metrics["wer"].value == 2 / 4


def test_rates_are_sums_over_all_rows_not_means_of_rates():
    # 1 error in 1 word and none in 9: 1 / 10, where the mean of the rates would be 1 / 2.
    found = transcription([said("yes", "no"), said("a b c d e f g h i", "a b c d e f g h i", 2)], 0)
    assert found.metrics["wer"].value == 1 / 10


def test_case_width_and_punctuation_count_in_the_raw_rates_alone():
    found = transcription([said("Press 1, please.", "press １ please")], 0)
    assert found.metrics["wer"].value == 0
    assert found.metrics["wer_raw"].value == 1
    assert found.metrics["exact_match"].value == 1


def test_a_japanese_character_counts_as_a_word_so_both_rates_agree():
    found = transcription([said("画面が真っ暗です", "画面が真っ黒です")], 0)
    assert found.metrics["wer"].value == found.metrics["cer"].value == 1 / 8


def test_spaces_that_punctuation_leaves_are_no_character_errors_in_japanese():
    found = transcription([said("はい、そうです。", "はいそうです")], 0)
    assert found.metrics["cer"].value == 0
    assert found.metrics["wer"].value == 0


def test_a_voiced_kana_in_two_code_points_is_one_character():
    assert plain_speech("か\u3099") == "が"
    assert units_of("か\u3099き") == ["か\u3099", "き"]


@given(st.lists(st.tuples(WORDS, st.one_of(WORDS, st.just(""))), min_size=1, max_size=6))
def test_word_and_character_rates_are_those_of_jiwer(pairs):
    targets, outputs = [a for a, _ in pairs], [b for _, b in pairs]
    found = transcription([said(a, b, i) for i, (a, b) in enumerate(pairs, 1)], 0)
    assert found.metrics["wer"].value == pytest.approx(jiwer.wer(targets, outputs))
    closed = [[text.replace(" ", "") for text in texts] for texts in (targets, outputs)]
    assert found.metrics["cer"].value == pytest.approx(jiwer.cer(*closed))


@given(st.text(max_size=20), st.text(max_size=20), st.booleans())
def test_the_pieces_of_an_alignment_hold_both_texts_whole(target, output, characters):
    (one,) = aligned([target], [output], characters)
    for side, text in ((1, target), (2, output)):
        together = "".join(piece[side] for piece in one.pieces).replace(" ", "")
        assert together == "".join(text.split()).replace(" ", "")


def test_an_interval_holds_its_figure_and_narrows_with_more_rows():
    rows = [said("one two three four", "one two three" if i % 3 else "one two three four", i + 1) for i in range(200)]
    few, many = (transcription(rows[:n], 0).metrics["wer"] for n in (12, 200))
    assert few.low <= few.value <= few.high
    assert many.high - many.low < (few.high - few.low) / 2


def test_each_row_carries_its_errors_and_words_so_that_two_models_can_be_compared():
    before = [said("press one now", "press two", 1), said("thank you", "thank you", 2)]
    after = [replace(before[0], output="press one now"), before[1]]
    old, new = transcription(before, 0), transcription(after, 0)
    assert [p.part for p in old.predictions] == [(2.0, 3.0), (0.0, 2.0)]
    change = gain(old, new, "wer", 0)
    assert change.value == pytest.approx(-2 / 5)
    assert change.low <= change.value <= change.high <= 0


def test_the_same_answers_twice_are_no_gain_at_all():
    rows = [said("press one now", "press two", i) for i in range(1, 9)]
    change = gain(transcription(rows, 0), transcription(rows, 0), "wer", 0)
    assert (change.value, change.low, change.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("Thank you. Thank you. Thank you. Thank you.", "thank you"),
        ("press 3 3 3 3 3 3 3", "3"),
        ("ご視聴ありがとうございました" * 4, "ご視聴ありがとうございました"),
        ("zero zero zero zero zero", None),
        ("the cat and the dog and the bird and the fish", None),
        ("", None),
    ],
)
def test_a_phrase_without_end_is_named(text, phrase):
    assert loops(text) == phrase


def test_a_loop_is_none_where_the_speaker_went_round_in_circles_too():
    text = "thank you " * 5
    found = transcription([said(text, text), said("thank you", text, 2)], 0)
    assert found.metrics["looped"].value == 1 / 2
    assert found.details["looped"] == [{"source": "calls.csv", "line": 2, "phrase": "thank you"}]


def test_words_on_a_silent_recording_are_told_and_silence_on_it_is_not():
    silent = (("seconds", 4.0), ("silence", 1.0))
    rows = [
        said("ready", "Thanks for watching!", 1, traits=silent),
        said("ready", " … ", 2, traits=silent),
        said("ready", "ready", 3, traits=(("silence", 0.3),)),
    ]
    found = transcription(rows, 0).details["silent"]
    assert found == {"rows": 2, "invented": [{"source": "calls.csv", "line": 1, "output": "Thanks for watching!"}]}


def test_the_worst_rows_come_first_in_pieces_and_right_ones_are_left_out():
    rows = [said("a b", "a b", 1), said("a b c d", "a x c", 2), said("a", "b", 3)]
    worst = transcription(rows, 0).details["worst"]
    assert [row["line"] for row in worst] == [2, 3]
    assert worst[0]["pieces"] == [
        ["equal", "a", "a"],
        ["substitute", "b", "x"],
        ["equal", "c", "c"],
        ["delete", "d", ""],
    ]


def test_what_is_written_instead_of_what_is_counted():
    rows = [said("callers waiting", "colors waiting", i) for i in (1, 2)] + [said("yes please", "yes", 3)]
    found = transcription(rows, 0).details["confusions"]
    assert found == [{"target": "callers", "output": "colors", "n": 2}, {"target": "please", "output": "", "n": 1}]


def test_loss_is_the_mean_over_all_target_tokens():
    rows = [said("a", "a", 1, loss=3.0, targets=3), said("b", "b", 2, loss=5.0, targets=1)]
    assert transcription(rows, 0).metrics["loss"].value == 2.0
    assert transcription_scores(rows) == {"loss": 2.0, "wer": 0.0, "cer": 0.0}


def test_more_words_than_were_said_make_a_rate_above_one():
    assert transcription([said("yes", "yes yes yes")], 0).metrics["wer"].value == 2


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "There are no rows"),
        ([said(None, "a")], r"calls\.csv:1 has no transcript"),
        ([said("…", "a")], "holds a word"),
    ],
)
def test_rows_that_cannot_be_judged_are_named(rows, told):
    with pytest.raises(DataError, match=told):
        transcription(rows, 0)


def test_a_resample_without_any_word_is_still_a_number():
    rows = [said("…", "noise", 1), said("yes", "yes", 2)]
    found = transcription(rows, 0).metrics["wer"]
    assert found.value == 1
    assert np.isfinite([found.low, found.high]).all()
