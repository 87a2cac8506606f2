"""The difference between base and tuned model, on the same rows."""

from __future__ import annotations

import pytest

from migaki.core.types import Evaluation, Measure, Place, Prediction
from migaki.evaluation import gain
from migaki.evaluation.intervals import paired_difference


def judged(metric, measure, *rows):
    """(output, target, loss, targets) as an evaluation."""
    predictions = [
        Prediction(Place("rows", i), output, target, None, loss, targets)
        for i, (output, target, loss, targets) in enumerate(rows, 1)
    ]
    return Evaluation({metric: measure}, {}, predictions)


ANY = Measure(0.0, 0.0, 1.0, 1)


def test_accuracy_is_compared_row_by_row():
    before = judged("accuracy", ANY, ("a", "a", None, 0), ("b", "a", None, 0), ("b", "a", None, 0))
    after = judged("accuracy", ANY, ("a", "a", None, 0), ("a", "a", None, 0), ("b", "a", None, 0))
    found = gain(before, after, "accuracy", seed=0)
    assert found == paired_difference([True, False, False], [True, True, False])
    assert found.value == pytest.approx(1 / 3)


def test_token_loss_is_compared_over_all_tokens():
    """3 less on 1 token, 1 more on 9: (1 - 3) / 10."""
    before, after = (
        judged("loss", ANY, ("", "x", 4.0, 1), ("", "y", 9.0, 9)),
        judged("loss", ANY, ("", "x", 1.0, 1), ("", "y", 10.0, 9)),
    )
    found = gain(before, after, "loss", seed=0)
    assert found.value == pytest.approx(-0.2)
    assert (found.low, found.high) == pytest.approx((-3.0, 1 / 9))  # resamples of one row alone


def test_an_equal_fall_on_every_token_is_certain_however_much_the_rows_differ():
    losses = [0.1, 9.0, 3.0, 40.0, 0.7]
    before = judged("loss", ANY, *(("", "x", loss, 1) for loss in losses))
    after = judged("loss", ANY, *(("", "x", loss - 0.05, 1) for loss in losses))
    found = gain(before, after, "loss", seed=0)
    assert (found.value, found.low, found.high) == pytest.approx((-0.05, -0.05, -0.05))


def test_the_metric_of_a_plug_in_gets_the_far_ends():
    before = judged("bleu", Measure(0.2, 0.1, 0.3, 50), ("", "", None, 0))
    after = judged("bleu", Measure(0.6, 0.5, 0.8, 50), ("", "", None, 0))
    found = gain(before, after, "bleu", seed=0)
    assert (found.value, found.low, found.high, found.n) == (pytest.approx(0.4), 0.5 - 0.3, 0.8 - 0.1, 50)
