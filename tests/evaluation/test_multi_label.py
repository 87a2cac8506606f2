"""Figures where rows may have several labels, beside scikit-learn and by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from migaki.core.errors import DataError
from migaki.core.types import Place, Prediction
from migaki.evaluation import best_threshold, labelling, labelling_scores
from migaki.evaluation.calibration import calibration_error, row_calibration

LABELS = ("a", "b", "c", "d")


def predicted(number: int, wanted: np.ndarray, probability: np.ndarray, threshold: float = 0.5) -> Prediction:
    given = tuple(np.array(LABELS)[probability > threshold].tolist())
    right = tuple(np.array(LABELS)[wanted].tolist())
    loss = -np.log(np.where(wanted, probability, 1 - probability)).sum()
    return Prediction(
        Place("rows", number),
        json.dumps(given),
        json.dumps(right),
        loss=float(loss),
        targets=4,
        scores=tuple(probability.tolist()),
        labels=given,
        part=(2.0 * len(set(given) & set(right)), float(len(given) + len(right))),
    )


def drawn(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Wanted labels, d never among them, and probabilities that know something about them, (N, C)."""
    dice = np.random.default_rng(seed)
    wanted_NC = dice.random((n, 4)) < np.array([0.5, 0.3, 0.1, 0.0])
    return wanted_NC, np.clip(0.25 + 0.4 * wanted_NC + dice.normal(0, 0.2, (n, 4)), 0.01, 0.99)


def rows_of(n: int, seed: int = 0, threshold: float = 0.5) -> list[Prediction]:
    return [predicted(i, w, p, threshold) for i, (w, p) in enumerate(zip(*drawn(n, seed), strict=True), 1)]


@pytest.mark.parametrize("seed", range(3))
def test_the_figures_are_those_of_scikit_learn(seed):
    wanted_NC, p_NC = drawn(80, seed)
    found = labelling(rows_of(80, seed), LABELS, 0).metrics
    given_NC = p_NC > 0.5
    used = [i for i in range(4) if wanted_NC[:, i].any() or given_NC[:, i].any()]
    oracle = {
        "f1_micro": sk.f1_score(wanted_NC, given_NC, average="micro"),
        "precision_micro": sk.precision_score(wanted_NC, given_NC, average="micro"),
        "recall_micro": sk.recall_score(wanted_NC, given_NC, average="micro"),
        "f1_macro": sk.f1_score(wanted_NC, given_NC, average="macro", labels=used, zero_division=0),
        "f1_samples": sk.f1_score(wanted_NC, given_NC, average="samples", zero_division=1),
        "exact_match": sk.accuracy_score(wanted_NC, given_NC),
        "loss": -np.log(np.where(wanted_NC, p_NC, 1 - p_NC)).mean(),
    }
    assert {name: found[name].value for name in oracle} == pytest.approx(oracle)
    for measure in found.values():
        assert measure.low <= measure.value <= measure.high


def test_a_row_that_rightly_has_no_label_is_right():
    nothing, low = np.zeros(4, dtype=bool), np.full(4, 0.1)
    found = labelling([predicted(i, nothing, low) for i in range(5)], LABELS, 0).metrics
    assert (found["f1_samples"].value, found["exact_match"].value) == (1.0, 1.0)
    assert found["f1_micro"].value == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_no_threshold_of_a_fine_grid_is_better_than_the_one_that_is_found(seed):
    wanted_NC, p_NC = drawn(60, seed)
    best = best_threshold(rows_of(60, seed), LABELS)

    def f1(threshold: float) -> float:
        return float(sk.f1_score(wanted_NC, p_NC > threshold, average="micro"))

    assert f1(best) >= max(f1(t) for t in np.linspace(0, 1, 500)) - 1e-12


def test_the_threshold_lies_half_way_between_the_two_probabilities_that_it_parts():
    wanted_NC = np.array([[True, False, False, False], [False, True, False, False]])
    p_NC = np.array([[0.4, 0.2, 0.1, 0.1], [0.1, 0.3, 0.2, 0.1]])
    assert (
        best_threshold([predicted(i, w, p) for i, (w, p) in enumerate(zip(wanted_NC, p_NC, strict=True))], LABELS)
        == 0.25
    )


def test_equal_probabilities_are_never_parted():
    """All 0.5, half of them right: only all or none can be given, and F1 of all is 2 x 4 / (8 + 4)."""
    rows = [predicted(i, np.array([True, True, False, False]), np.full(4, 0.5)) for i in range(2)]
    threshold = best_threshold(rows, LABELS)
    assert threshold < 0.5
    assert labelling_scores(rows, LABELS)["f1_micro"] == pytest.approx(8 / 12)


def test_without_any_right_label_the_threshold_is_one_half():
    assert best_threshold([predicted(1, np.zeros(4, dtype=bool), np.full(4, 0.3))], LABELS) == 0.5


def test_what_is_watched_is_judged_at_the_threshold_that_will_be_chosen():
    rows = rows_of(50)
    best = best_threshold(rows, LABELS)
    wanted_NC, p_NC = drawn(50, 0)
    assert labelling_scores(rows, LABELS)["f1_micro"] == pytest.approx(
        sk.f1_score(wanted_NC, p_NC > best, average="micro")
    )
    fixed = labelling_scores(rows, LABELS, 0.5)
    assert fixed["f1_micro"] == pytest.approx(labelling(rows, LABELS, 0).metrics["f1_micro"].value)


def test_a_label_taken_for_another_is_counted_by_rows():
    """Three rows want a and get b; one of them also gets c: a for b three times, a for c once, of four rows with a."""
    a, ab = np.array([True, False, False, False]), np.array([True, True, False, False])
    rows = [
        predicted(1, a, np.array([0.1, 0.9, 0.1, 0.1])),
        predicted(2, a, np.array([0.1, 0.9, 0.1, 0.1])),
        predicted(3, a, np.array([0.1, 0.9, 0.9, 0.1])),
        predicted(4, ab, np.array([0.9, 0.9, 0.1, 0.1])),
    ]
    details = labelling(rows, LABELS, 0).details
    assert [(p["target"], p["output"], p["n"], p["share"]["value"]) for p in details["confused_pairs"]] == [
        ("a", "b", 3, 0.75),
        ("a", "c", 1, 0.25),
    ]
    assert details["never_predicted"] == []
    assert details["per_class"]["a"]["recall"]["value"] == 0.25
    assert "d" not in details["per_class"]


def test_calibration_of_one_label_has_the_error_of_the_usual_one():
    dice = np.random.default_rng(0)
    p_N = dice.uniform(0.05, 0.95, 300)
    true_N = dice.random(300) < p_N**2
    found = row_calibration(p_N[:, None], true_N[:, None], 0)["error"]
    usual = calibration_error(p_N, true_N, 0)
    assert found["value"] == pytest.approx(usual.value)
    assert (found["low"], found["high"]) == (pytest.approx(usual.low, abs=0.02), pytest.approx(usual.high, abs=1e-12))


@pytest.mark.parametrize("seed", range(5))
def test_a_calibrated_model_of_several_labels_is_not_called_miscalibrated(seed):
    dice = np.random.default_rng(seed)
    p_NC = dice.uniform(0, 1, (150, 4))
    found = row_calibration(p_NC, dice.random((150, 4)) < p_NC, 0)
    assert found["error"]["low"] == 0.0
    assert sum(b["n"] for b in found["bins"]) == 600


def test_rows_that_cannot_be_judged_are_named():
    with pytest.raises(DataError, match="no rows to judge"):
        labelling([], LABELS, 0)
    with pytest.raises(DataError, match=r"rows:4 has no labels.*Write \[\] where none is right"):
        labelling([Prediction(Place("rows", 4), "[]")], LABELS, 0)
    with pytest.raises(DataError, match="rows:4 has the label 'x', which the model does not know"):
        labelling([Prediction(Place("rows", 4), "[]", '["x"]')], LABELS, 0)
