"""Token loss, perplexity and text metrics by hand and against sacrebleu."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.chrf import CHRF

from migaki.core.errors import DataError
from migaki.core.types import Place, Prediction
from migaki.evaluation import character_f1, generation, generation_scores, wilson


def answered(*rows):
    """(output, target, loss, targets, stopped) as predictions."""
    return [
        Prediction(Place("rows", i), output, target, None, loss, targets, stopped)
        for i, (output, target, loss, targets, stopped) in enumerate(rows, 1)
    ]


def written(*pairs):
    return answered(*((output, target, 1.0, 1, True) for output, target in pairs))


def test_loss_is_the_mean_over_tokens_not_over_rows():
    """1 token with loss 4 and 9 tokens with loss 1 each: 13 / 10, where the mean of row means would be 2.5."""
    rows = answered(("", "x", 4.0, 1, None), ("", "y", 9.0, 9, None))
    found = generation(rows, seed=0)
    assert found.metrics["loss"].value == pytest.approx(1.3)
    assert generation_scores(rows) == {"loss": pytest.approx(1.3)}
    assert found.details == {"rows": 2, "target_tokens": 10, "generated_rows": 0, "slices": []}


def test_perplexity_and_its_interval_are_the_exponentials_of_the_loss():
    rows = answered(*(("", "x", float(i), 2, None) for i in range(1, 30)))
    loss, perplexity = (generation(rows, seed=0).metrics[name] for name in ("loss", "perplexity"))
    for end in ("value", "low", "high"):
        assert getattr(perplexity, end) == pytest.approx(math.exp(getattr(loss, end)))
    assert loss.low < loss.value < loss.high


def test_text_metrics_use_only_the_rows_that_were_answered():
    rows = answered(("yes", "yes", 1.0, 1, True), ("", "no", 1.0, 1, None), ("maybe", "no", 1.0, 1, False))
    found = generation(rows, seed=0).metrics
    assert (found["exact_match"].value, found["exact_match"].n) == (0.5, 2)
    assert (found["exact_match"].low, found["exact_match"].high) == wilson(1, 2)
    assert (found["stopped"].value, found["stopped"].n) == (0.5, 2)
    assert found["loss"].n == 3


def test_no_text_metrics_where_nothing_was_answered():
    assert set(generation(answered(("", "x", 1.0, 1, None)), seed=0).metrics) == {"loss", "perplexity"}


@pytest.mark.parametrize(
    ("output", "target", "equal"),
    [
        ("東京です", "東京です", True),
        (" a  b\n", "a b", True),  # white space
        ("ＡＢＣ１", "ABC1", True),  # width
        ("か\u3099", "が", True),  # a combining mark is one letter with its base
        ("か", "が", False),
        ("A", "a", False),
    ],
)
def test_exact_match_forgives_width_and_white_space_only(output, target, equal):
    assert generation(written((output, target)), seed=0).metrics["exact_match"].value == float(equal)


@given(st.lists(st.tuples(st.text("abc 東京", max_size=12), st.text("abc 東京", max_size=12)), min_size=1, max_size=5))
def test_chrf_is_the_mean_of_sacrebleus_sentence_scores(pairs):
    theirs = [CHRF().sentence_score(output, [target]).score / 100 for output, target in pairs]
    assert generation(written(*pairs), seed=0).metrics["chrf"].value == pytest.approx(sum(theirs) / len(theirs))


@pytest.mark.parametrize(
    ("output", "target", "expected"),
    [
        ("東京です", "東京都です", 2 * 4 / (4 + 5)),  # 4 shared
        ("返品したい", "返品したいです", 2 * 5 / (5 + 7)),
        ("ああ", "あ", 2 * 1 / (2 + 1)),  # a letter counts as often as it is there
        ("画面", "請求書", 0.0),
        ("ハイ", "ﾊｲ", 1.0),  # half-width kana
        ("ca b", "a b c", 1.0),  # order and white space aside
        ("", "", 1.0),
        ("", "a", 0.0),
    ],
)
def test_character_f1_by_hand(output, target, expected):
    assert character_f1(output, target) == pytest.approx(expected)


def test_wrong_answers_on_few_rows_leave_doubt():
    found = generation(written(("a", "b"), ("c", "d")), seed=0).metrics["character_f1"]
    assert (found.value, found.low, found.high) == (0.0, *wilson(0, 2))


def test_an_immense_loss_does_not_end_the_evaluation():
    with pytest.warns(RuntimeWarning, match="overflow"):
        found = generation(answered(("", "x", 1000.0, 1, None)), seed=0)
    assert found.metrics["perplexity"].value == math.inf


@pytest.mark.parametrize(
    "rows", [[], answered(("", None, None, 0, None)), answered(("", "x", 1.0, 1, True), ("", "", 0.0, 0, None))]
)
def test_rows_that_cannot_be_judged_are_refused(rows):
    with pytest.raises(DataError, match=r"no rows to judge|has no wanted answer"):
        generation(rows, seed=0)
