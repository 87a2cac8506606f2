"""Calibration error and temperature: by hand, against their definitions, and against planted truths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from migaki.core.types import Place, Prediction
from migaki.evaluation import calibration, temperature_scaling, wilson
from migaki.evaluation.calibration import calibration_error, fit_temperature, tempered

LABELS = ("a", "b", "c")
judged = st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), min_size=1, max_size=60)


def answered(*rows):
    """(confidence, right) as predictions."""
    return [
        Prediction(Place("rows", i), "a", "a" if right else "b", confidence)
        for i, (confidence, right) in enumerate(rows, 1)
    ]


def drawn(n: int, seed: int, sharper: float = 1.0) -> list[Prediction]:
    """Rows whose labels are drawn from the softmax of their logits; the model shows the logits times `sharper`."""
    random = np.random.default_rng(seed)
    z_NC = random.normal(0, 1.5, size=(n, len(LABELS)))
    true_NC, shown_NC = (np.exp(scale * z_NC) for scale in (1.0, sharper))
    true_NC, shown_NC = (p / p.sum(1, keepdims=True) for p in (true_NC, shown_NC))
    rows = []
    for i, (true_C, shown_C) in enumerate(zip(true_NC, shown_NC, strict=True), 1):
        target = int(random.choice(len(LABELS), p=true_C))
        best = int(shown_C.argmax())
        rows.append(
            Prediction(
                Place("rows", i),
                LABELS[best],
                LABELS[target],
                float(shown_C[best]),
                float(-np.log(shown_C[target])),
                1,
                scores=tuple(shown_C),
            )
        )
    return rows


def test_calibration_error_by_hand():
    # bin 14/15..1: 4 rows, confidence 0.95, 3 right: gap 0.20; bin 8/15..9/15: 1 row, 0.55, right: gap 0.45
    found = calibration(answered(*[(0.95, True)] * 3, (0.95, False), (0.55, True)), seed=0)
    assert found["error"]["value"] == pytest.approx(0.8 * 0.20 + 0.2 * 0.45)
    assert found["error"]["n"] == 5
    low, high = found["bins"]
    assert (low["low"], low["high"], low["n"], low["confidence"]) == pytest.approx((8 / 15, 9 / 15, 1, 0.55))
    assert (high["low"], high["high"], high["n"], high["confidence"]) == pytest.approx((14 / 15, 1, 4, 0.95))
    assert (high["accuracy"]["value"], high["accuracy"]["n"]) == (0.75, 4)
    assert (high["accuracy"]["low"], high["accuracy"]["high"]) == wilson(3, 4)


def test_rows_of_one_bin_are_held_against_their_mean_confidence():
    """0.94 wrong and 0.98 right: each is far off by itself, the bin by |0.5 - 0.96|, not by (0.94 + 0.02) / 2."""
    assert calibration(answered((0.94, False), (0.98, True)), seed=0)["error"]["value"] == pytest.approx(0.46)


def test_a_bound_belongs_to_the_bin_below_it_and_full_confidence_to_the_last():
    found = calibration(answered((3 / 15, True), (3 / 15 + 1e-6, True), (1.0, True), (0.0, False)), seed=0)
    assert [round(15 * b["high"]) for b in found["bins"]] == [1, 3, 4, 15]


def test_no_calibration_without_confidences():
    assert calibration([*answered((0.9, True)), Prediction(Place("rows", 2), "a", "a")], seed=0) is None


@given(judged)
@settings(max_examples=60, deadline=None)
def test_the_error_is_the_sum_over_bins_of_the_definition(rows):
    """Guo et al., equation 3, bin by bin; and the shown bins give it again."""
    found = calibration(answered(*rows), seed=0)
    error = 0.0
    for m in range(1, 16):
        inside = [(c, right) for c, right in rows if (m - 1) / 15 < c <= m / 15 or (m == 1 and c == 0)]
        if inside:
            accuracy, confidence = np.mean([right for _, right in inside]), np.mean([c for c, _ in inside])
            error += len(inside) / len(rows) * abs(accuracy - confidence)
    assert found["error"]["value"] == pytest.approx(error)
    shown = sum(b["n"] / len(rows) * abs(b["accuracy"]["value"] - b["confidence"]) for b in found["bins"])
    assert shown == pytest.approx(error)
    assert 0 <= found["error"]["low"] <= found["error"]["value"] <= found["error"]["high"]


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_the_interval_of_the_error_holds_the_truth(shift):
    """120 samples of 200 rows whose accuracy lies `shift` below their confidence, so that the true error is `shift`.

    A 95 % interval misses 6 of them, give or take 3 standard deviations of 2.4; for a calibrated model the percentiles
    of the resampled errors miss the truth, 0, every time.
    """
    random = np.random.default_rng(5)
    held = 0
    for _ in range(120):
        confidence_N = random.choice([0.45, 0.65, 0.85, 0.97], size=200)
        hit_N = random.random(200) < confidence_N - shift
        error = calibration_error(confidence_N, hit_N, seed=0)
        held += error.low <= shift <= error.high
    assert held >= 120 - 6 - 7, held


def test_a_planted_temperature_is_found_again():
    """The model shows logits 2.5 times too sharp; 4000 rows pin the temperature down to a few percent."""
    assert fit_temperature(drawn(4000, seed=0, sharper=2.5), LABELS) == pytest.approx(2.5, rel=0.05)
    assert fit_temperature(drawn(4000, seed=0, sharper=0.5), LABELS) == pytest.approx(0.5, rel=0.05)


def test_the_temperature_is_where_scipy_finds_the_smallest_loss():
    rows = drawn(150, seed=1, sharper=1.7)

    def loss(log_temperature: float) -> float:
        return float(np.mean([p.loss for p in tempered(rows, LABELS, np.exp(log_temperature))]))

    best = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9})
    assert np.log(fit_temperature(rows, LABELS)) == pytest.approx(best.x, abs=1e-4)


def test_where_every_row_is_right_the_search_ends_at_its_bound():
    rows = [Prediction(Place("rows", i), "a", "a", 0.9, scores=(0.9, 0.05, 0.05)) for i in range(5)]
    assert fit_temperature(rows, LABELS) == pytest.approx(0.05, rel=1e-6)


def test_a_temperature_changes_no_answer_and_none_changes_nothing():
    rows = drawn(50, seed=2)
    same, softer = tempered(rows, LABELS, 1.0), tempered(rows, LABELS, 3.0)
    for before, one, three in zip(rows, same, softer, strict=True):
        assert (one.confidence, one.loss) == pytest.approx((before.confidence, before.loss))
        assert one.output == three.output == LABELS[int(np.argmax(three.scores))]
        assert three.confidence < before.confidence
        assert sum(three.scores) == pytest.approx(1.0)


def test_odds_are_taken_to_the_power_of_one_over_the_temperature():
    # scores 0.8 : 0.2 are odds of 4; at T = 2 odds of 2: 2/3 and 1/3
    (row,) = tempered([Prediction(Place("rows", 1), "a", "b", 0.8, 1.6, 1, scores=(0.8, 0.2))], ("a", "b"), 2.0)
    assert row.scores == pytest.approx((2 / 3, 1 / 3))
    assert row.loss == pytest.approx(np.log(3))


def test_scaling_by_the_validation_rows_mends_the_test_rows():
    valid, test = drawn(1000, seed=3, sharper=3.0), drawn(1000, seed=4, sharper=3.0)
    found = temperature_scaling(valid, test, LABELS, seed=0)
    assert (found["value"], found["rows"]) == (fit_temperature(valid, LABELS), 1000)
    assert found["before"]["error"] == calibration(test, 0)["error"]
    assert found["before"]["loss"]["value"] == pytest.approx(np.mean([p.loss for p in test]))
    # Shown three times too sharp the model is 0.15 to 0.2 too sure; scaled it is right up to chance.
    assert found["before"]["error"]["low"] > 0.1
    assert found["after"]["error"]["low"] == 0
    assert found["after"]["loss"]["high"] < found["before"]["loss"]["low"]


def test_without_scores_or_validation_rows_there_is_no_temperature():
    rows = drawn(5, seed=0)
    assert temperature_scaling([], rows, LABELS, seed=0) is None
    assert temperature_scaling(rows, answered((0.9, True)), LABELS, seed=0) is None
