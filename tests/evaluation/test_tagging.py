"""Figures over named parts, beside nervaluate and by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from migaki.core.errors import DataError
from migaki.core.types import Place, Prediction, Span, spans_text
from migaki.evaluation import gain, tagging, tagging_scores

LABELS = ("A", "B", "C")


def predicted(number: int, wanted: Sequence[Span], found: Sequence[Span], loss: float = 1.0) -> Prediction:
    hits = len(set(wanted) & set(found))
    return Prediction(
        Place("rows", number),
        spans_text(found),
        spans_text(wanted),
        loss=loss,
        targets=5,
        text=f"text {number}",
        spans=tuple(found),
        part=(2.0 * hits, float(len(wanted) + len(found))),
    )


def drawn(dice: random.Random) -> tuple[list[Span], list[Span]]:
    """Parts of a text of 40 characters, and an answer that gets some of them right, moves, renames, misses or invents."""
    wanted, found, at = [], [], 0
    while at < 34:
        start = at + dice.randint(0, 3)
        end = start + dice.randint(2, 5)
        label = dice.choice(LABELS)
        fate = dice.random()
        if fate < 0.85:
            wanted.append(Span(start, end, label))
        if fate < 0.4 or fate > 0.9:
            found.append(Span(start, end, label))
        elif fate < 0.55:
            found.append(Span(start + 1, end, label))
        elif fate < 0.7:
            found.append(Span(start, end, dice.choice(LABELS)))
        elif fate < 0.75:
            found.append(Span(start, end + 1, dice.choice(LABELS)))
        at = end + 2
    return wanted, found


@pytest.mark.parametrize("seed", range(4))
def test_the_figures_are_those_of_nervaluate(seed):
    nervaluate = pytest.importorskip("nervaluate")
    dice = random.Random(seed)
    rows = [drawn(dice) for _ in range(25)]

    def theirs(spans: Sequence[Span]) -> list[dict[str, object]]:
        # Their ends are included.
        return [{"label": s.label, "start": s.start, "end": s.end - 1} for s in spans]

    oracle = nervaluate.Evaluator(
        [theirs(w) for w, _ in rows], [theirs(f) for _, f in rows], tags=list(LABELS), loader="dict"
    ).evaluate()
    found = tagging([predicted(i, w, f) for i, (w, f) in enumerate(rows, 1)], LABELS, 0)
    for ending, strategy in (("", "strict"), ("_partial", "partial")):
        for name in ("precision", "recall", "f1"):
            wanted = getattr(oracle["overall"][strategy], name)
            assert found.metrics[f"{name}{ending}"].value == pytest.approx(wanted), (name, strategy)
    for label in LABELS:
        for name in ("precision", "recall", "f1"):
            wanted = getattr(oracle["entities"][label]["strict"], name)
            assert found.details["per_class"][label][name]["value"] == pytest.approx(wanted)


def test_every_fate_of_a_part_is_counted_once():
    """Six wanted: right, renamed, moved, moved and renamed, missed twice; one invented."""
    wanted = [Span(i * 10, i * 10 + 4, "A") for i in range(6)]
    found = [Span(0, 4, "A"), Span(10, 14, "B"), Span(20, 25, "A"), Span(31, 34, "B"), Span(60, 62, "C")]
    result = tagging([predicted(1, wanted, found)], LABELS, 0)
    assert result.details["span_errors"] == {
        "correct": 1,
        "relabelled": 1,
        "moved": 1,
        "mixed_up": 1,
        "missed": 2,
        "spurious": 1,
    }
    # precision 1/5, recall 1/6; partial: exact borders 2, others 2: (2 + 1) of 5 and of 6
    figures = {name: result.metrics[name].value for name in ("precision", "recall", "f1", "f1_partial")}
    assert figures == pytest.approx({"precision": 0.2, "recall": 1 / 6, "f1": 2 / 11, "f1_partial": 6 / 11})
    pairs = {(p["target"], p["output"]): p["n"] for p in result.details["confused_pairs"]}
    assert pairs == {("A", "B"): 2, ("A", "∅"): 2, ("∅", "C"): 1}


def test_rows_without_parts_count_in_the_share_of_right_rows_only():
    rows = [
        predicted(1, [], []),
        predicted(2, [Span(0, 2, "A")], [Span(0, 2, "A")]),
        predicted(3, [], [Span(0, 2, "B")]),
    ]
    result = tagging(rows, LABELS, 0)
    assert result.metrics["exact_match"].value == pytest.approx(2 / 3)
    assert result.metrics["f1"].value == pytest.approx(2 / 3)
    assert tagging([predicted(1, [], [])], LABELS, 0).metrics["f1"].value == 0.0


def test_the_interval_of_f1_is_that_of_rows_drawn_again():
    dice = random.Random(0)
    rows = [predicted(i, *drawn(dice)) for i in range(60)]
    measure = tagging(rows, LABELS, 0).metrics["f1"]
    parts_N2 = np.array([p.part for p in rows])
    draws = np.random.default_rng(5).integers(0, 60, (4000, 60))
    sums_K2 = parts_N2[draws].sum(1)
    low, high = np.percentile(sums_K2[:, 0] / sums_K2[:, 1], [2.5, 97.5])
    assert measure.low == pytest.approx(low, abs=0.015)
    assert measure.high == pytest.approx(high, abs=0.015)


def test_the_gain_is_judged_row_by_row():
    """Base finds nothing, tuned everything, in every row: F1 rises by exactly 1 whatever rows are drawn."""
    wanted = [Span(0, 2, "A")]
    before = tagging([predicted(i, wanted, []) for i in range(20)], LABELS, 0)
    after = tagging([predicted(i, wanted, wanted) for i in range(20)], LABELS, 0)
    change = gain(before, after, "f1", 0)
    assert (change.value, change.low, change.high) == (1.0, 1.0, 1.0)


def test_what_is_watched_is_what_is_measured():
    dice = random.Random(3)
    rows = [predicted(i, *drawn(dice), loss=float(i)) for i in range(12)]
    watched, measured = tagging_scores(rows, LABELS), tagging(rows, LABELS, 0).metrics
    assert watched["f1"] == pytest.approx(measured["f1"].value)
    assert watched["loss"] == pytest.approx(measured["loss"].value) == pytest.approx(sum(range(12)) / 60)


def test_rows_that_cannot_be_judged_are_named():
    with pytest.raises(DataError, match="no rows to judge"):
        tagging([], LABELS, 0)
    with pytest.raises(DataError, match="rows:4 has no spans"):
        tagging([Prediction(Place("rows", 4), "[]")], LABELS, 0)
    with pytest.raises(DataError, match="rows:1 has the label 'X', which the model does not know"):
        tagging([predicted(1, [Span(0, 1, "X")], [])], LABELS, 0)
