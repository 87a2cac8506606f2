"""Labels of every kind of row, and rows that are unlike all others of their label."""

from __future__ import annotations

import numpy as np

from migaki.audit.labels import label_lights
from migaki.audit.outliers import outlying
from migaki.core.types import Dataset, Labelled, MultiLabelled, Place, Row, Span, Tagged


def dataset(*contents):
    return Dataset("train", tuple(Row(Place("a", line), content) for line, content in enumerate(contents, 1)))


def found(kind, *contents):
    return {light.name: light for light in label_lights(dataset(*contents), kind)}


def test_labels_of_rows_with_several_and_of_named_parts_are_counted_one_by_one():
    several = [MultiLabelled(f"t{n}", ("billing", "urgent") if n % 2 else ("billing",)) for n in range(40)]
    lights = found("multi_labelled", *several, MultiLabelled("x", ("Urgent ",)), MultiLabelled("y", ()))
    assert "'urgent' (20, first a:2) = 'Urgent ' (1, first a:41)" in lights["label spelling"].examples[0]
    assert lights["rows without a label"].examples == ("a:42",)
    assert lights["imbalance"].remedy.startswith("task: {kind: label_text, class_weights: balanced}")
    tagged = [Tagged("Anna is here", (Span(0, 4, "NAME" if n else "Name"),)) for n in range(30)]
    assert "label spelling" in found("tagged", *tagged)


def test_a_label_that_is_written_for_an_empty_cell_is_named():
    rows = [Labelled(f"t{n}", "ab"[n % 2]) for n in range(20)] + [Labelled(f"u{n}", "None") for n in range(6)]
    light = found("labelled", *rows)["labels for an empty cell"]
    assert (light.count, light.examples) == (6, ("'None' (6, first a:21)",))


def test_rows_far_from_their_label_are_found_and_a_rare_label_is_left_alone():
    dice = np.random.default_rng(0)
    features_ND = dice.normal(size=(63, 8))
    label_N = np.array([0] * 40 + [1] * 20 + [2] * 3)
    features_ND[label_N == 1] += 20.0
    features_ND[7] += 12.0
    features_ND[45] -= 30.0
    features_ND[61] += 99.0
    assert outlying(features_ND, label_N) == [45, 7]


def test_the_distance_is_that_to_the_other_rows():
    # Twelve rows on a line at -1 and 1 in turn, one at 100: without the row itself the mean is 0, the distance 100.
    x_ND = np.array([[(-1.0) ** n] for n in range(12)] + [[100.0]])
    assert outlying(x_ND + 0.01 * np.arange(13)[:, None], np.zeros(13, dtype=int)) == [12]
