"""Classification metrics against scikit-learn and hand calculation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, precision_recall_fscore_support

from migaki.core.errors import DataError
from migaki.core.types import Place, Prediction
from migaki.evaluation import classification, classification_scores, wilson

LABELS = ("a", "b", "c", "d", "never")
rows = st.lists(st.tuples(st.sampled_from(LABELS[:4]), st.sampled_from(LABELS[:4])), min_size=1, max_size=60)


def predicted(pairs, confidence=None, loss=0.5):
    """(target, output) pairs as predictions."""
    return [
        Prediction(Place("rows", i), output, target, confidence, loss, 1) for i, (target, output) in enumerate(pairs, 1)
    ]


@given(rows)
@settings(max_examples=60, deadline=None)
def test_figures_agree_with_scikit_learn(pairs):
    targets, outputs = (list(side) for side in zip(*pairs, strict=True))
    found = classification(predicted(pairs), LABELS, seed=0)
    values = {name: measure.value for name, measure in found.metrics.items()}
    present = sorted({*targets, *outputs})
    expected = {"accuracy": accuracy_score(targets, outputs)}
    for how in ("macro", "weighted", "micro"):
        precision, recall, f1, _ = precision_recall_fscore_support(
            targets, outputs, labels=present, average=how, zero_division=0
        )
        expected |= {f"f1_{how}": f1}
        if how != "micro":
            expected |= {f"precision_{how}": precision, f"recall_{how}": recall}
        else:
            assert precision == recall == pytest.approx(values["accuracy"])
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert set(values) == {*expected, "loss"}


@given(rows)
@settings(max_examples=60, deadline=None)
def test_each_class_and_the_matrix_agree_with_scikit_learn(pairs):
    targets, outputs = (list(side) for side in zip(*pairs, strict=True))
    details = classification(predicted(pairs), LABELS, seed=0).details
    assert details["confusion"] == confusion_matrix(targets, outputs, labels=LABELS).tolist()
    present = sorted({*targets, *outputs})
    assert sorted(details["per_class"]) == present
    theirs = precision_recall_fscore_support(targets, outputs, labels=present, zero_division=0)
    for label, precision, recall, f1, support in zip(present, *theirs, strict=True):
        ours = details["per_class"][label]
        assert [ours[name]["value"] for name in ("precision", "recall", "f1")] == pytest.approx([precision, recall, f1])
        assert (ours["support"], ours["predicted"]) == (support, outputs.count(label))


@given(rows, st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_every_interval_holds_its_figure_within_0_and_1(pairs, seed):
    found = classification(predicted(pairs), LABELS, seed)
    classes = [
        figures[name] for figures in found.details["per_class"].values() for name in ("precision", "recall", "f1")
    ]
    for m in [*(m.as_json() for name, m in found.metrics.items() if name != "loss"), *classes]:
        assert -1e-12 <= m["low"] <= m["value"] + 1e-12 <= m["high"] + 2e-12 <= 1 + 3e-12


def test_per_class_figures_by_hand():
    # b: 2 of its 3 rows found, 4 rows called b: precision 2/4, recall 2/3, F1 4/7
    pairs = [("b", "b"), ("b", "b"), ("b", "a"), ("a", "b"), ("a", "b"), ("a", "a")]
    b = classification(predicted(pairs), ("a", "b"), seed=0).details["per_class"]["b"]
    assert [b[name]["value"] for name in ("precision", "recall", "f1")] == pytest.approx([1 / 2, 2 / 3, 4 / 7])
    assert (b["recall"]["low"], b["recall"]["high"]) == wilson(2, 3)
    assert (b["precision"]["low"], b["precision"]["high"]) == wilson(2, 4)
    # Jaccard 2 hits of 5 rows that are b or are called b; F1 = 2J / (1 + J) at the ends of its interval
    low, high = wilson(2, 5)
    assert (b["f1"]["low"], b["f1"]["high"]) == pytest.approx((2 * low / (1 + low), 2 * high / (1 + high)))


def test_a_class_that_is_never_predicted_is_named_and_pulls_macro_f1_down():
    """95 of 100 rows are ham and everything is called ham: accuracy 0.95, macro F1 (2 * 0.95 / 1.95 + 0) / 2."""
    pairs = [("ham", "ham")] * 95 + [("spam", "ham")] * 5
    found = classification(predicted(pairs), ("ham", "spam"), seed=0)
    assert found.metrics["accuracy"].value == 0.95
    assert found.metrics["f1_macro"].value == pytest.approx(0.95 / 1.95)
    assert found.details["never_predicted"] == ["spam"]
    assert found.details["majority"]["label"] == "ham"
    assert found.details["majority"]["accuracy"]["value"] == 0.95
    assert found.details["per_class"]["spam"]["f1"]["high"] > 0.3  # five rows are few


def test_a_label_without_rows_is_neither_averaged_nor_flagged():
    found = classification(predicted([("a", "a"), ("b", "b")]), LABELS, seed=0)
    assert found.metrics["f1_macro"].value == 1.0
    assert found.details["never_predicted"] == []
    assert "never" not in found.details["per_class"]


def test_all_right_on_few_rows_is_not_certain():
    found = classification(predicted([("a", "a"), ("b", "b")] * 2), ("a", "b"), seed=0)
    assert found.metrics["f1_macro"].low == found.metrics["accuracy"].low == wilson(4, 4)[0]


def test_loss_is_the_mean_negative_log_probability():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]])
    targets = ["a", "c", "a"]
    made = [
        Prediction(Place("rows", i), "abc"[p.argmax()], y, float(p.max()), -math.log(p["abc".index(y)]), 1)
        for i, (p, y) in enumerate(zip(probabilities, targets, strict=True))
    ]
    found = classification(made, ("a", "b", "c"), seed=0).metrics["loss"]
    assert found.value == pytest.approx(log_loss(targets, probabilities, labels=["a", "b", "c"]))
    assert found.low < found.value < found.high


def test_no_loss_where_a_method_has_none():
    assert "loss" not in classification(predicted([("a", "a")], loss=None), LABELS, seed=0).metrics


def test_confused_pairs_are_ranked_with_their_share_of_the_true_label():
    pairs = [("a", "b")] * 2 + [("a", "a")] * 2 + [("c", "b")] + [("d", "c")] + [("d", "d")] * 3 + [("b", "b")]
    found = classification(predicted(pairs), LABELS, seed=0).details["confused_pairs"]
    assert [(pair["target"], pair["output"], pair["n"]) for pair in found] == [
        ("a", "b", 2),
        ("c", "b", 1),
        ("d", "c", 1),
    ]
    assert [(pair["share"]["value"], pair["share"]["n"]) for pair in found] == [(2 / 4, 4), (1 / 1, 1), (1 / 4, 4)]
    assert (found[0]["share"]["low"], found[0]["share"]["high"]) == wilson(2, 4)


@given(rows)
@settings(max_examples=30, deadline=None)
def test_watching_gives_the_figures_of_the_evaluation(pairs):
    made = predicted(pairs)
    full = classification(made, LABELS, seed=0).metrics
    assert classification_scores(made, LABELS) == pytest.approx(
        {name: full[name].value for name in ("loss", "accuracy", "f1_macro")}
    )


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "no rows to judge"),
        ([Prediction(Place("t.csv", 7), "a")], "t.csv:7 has no label"),
        ([Prediction(Place("t.csv", 8), "a", "z")], "t.csv:8 has the label 'z'"),
    ],
)
def test_rows_that_cannot_be_judged_are_named(made, message):
    with pytest.raises(DataError, match=message):
        classification(made, LABELS, seed=0)
