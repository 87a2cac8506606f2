"""Suspicious labels: counted by hand, planted and found again, and never vouched for by a copy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.linear_model import LogisticRegression

from migaki.evaluation import out_of_fold, suspects
from migaki.evaluation.suspicion import _parts

names = st.lists(st.sampled_from("abcdefghij"), min_size=2, max_size=40)


def planted(n: int, classes: int, seed: int, share: float = 0.05):
    """Separable features, true labels, labels of which a share is flipped, and which ones were."""
    random = np.random.default_rng(seed)
    true_N = np.arange(n) % classes
    features_ND = random.normal(0, 4, size=(classes, 16))[true_N] + random.normal(size=(n, 16))
    flipped_N = np.zeros(n, dtype=bool)
    flipped_N[random.choice(n, int(share * n), replace=False)] = True
    labels_N = np.where(flipped_N, (true_N + random.integers(1, classes, n)) % classes, true_N)
    return features_ND, true_N, labels_N, flipped_N


def test_as_many_rows_as_count_elsewhere_are_taken_by_their_self_confidence():
    """Thresholds: label 0 (0.8 + 0.6 + 0.1) / 3 = 0.5, label 1 (0.9 + 0.25) / 2 = 0.575, label 2 0.3.

    Row 2 (labelled 0) reaches label 1 only, row 4 (labelled 1) label 2 only, so two rows count elsewhere; row 1 reaches
    its own label and label 2, and its own is the more probable. The smallest self-confidences are 0.1 and 0.25.
    """
    p = np.array(
        [[0.8, 0.1, 0.1], [0.6, 0.1, 0.3], [0.1, 0.7, 0.2], [0.1, 0.9, 0.0], [0.35, 0.25, 0.4], [0.4, 0.3, 0.3]]
    )
    found = suspects(p, np.array([0, 0, 0, 1, 1, 2]))
    assert [(s.row, s.label, s.suggested) for s in found] == [(2, 0, 1), (4, 1, 2)]
    assert [(s.confidence, s.suggested_confidence) for s in found] == [(0.1, 0.7), (0.25, 0.4)]


def test_a_row_whose_own_label_is_the_most_probable_is_never_suspected():
    """Row 2 counts elsewhere (0.4 reaches the 0.3 of label 1, 0.5 not the 0.7 of label 0), and is left in peace."""
    p = np.array([[0.9, 0.1, 0.0], [0.7, 0.3, 0.0], [0.5, 0.4, 0.1], [0.7, 0.3, 0.0], [0.0, 0.0, 1.0]])
    labels = np.array([0, 0, 0, 1, 2])
    assert [s.row for s in suspects(p, labels)] == [3]


def test_a_timid_label_is_not_held_to_the_standard_of_a_sure_one():
    """Label 1 is never more probable than 0.4, and its rows are not suspected for that: they are what it looks like."""
    p = np.array([[0.95, 0.05]] * 5 + [[0.6, 0.4]] * 5)
    assert suspects(p, np.repeat([0, 1], 5)) == []
    # By the largest probability alone all five would be.
    assert (p.argmax(1) != np.repeat([0, 1], 5)).sum() == 5


def test_rows_that_cannot_be_judged_are_neither_suspected_nor_counted():
    p = np.array([[0.9, 0.1], [0.9, 0.1], [np.nan, np.nan], [0.2, 0.8], [0.9, 0.1]])
    assert [s.row for s in suspects(p, np.array([0, 0, 1, 1, 1]))] == [4]


@given(arrays(np.float64, st.tuples(st.integers(1, 30), st.just(3)), elements=st.floats(0.01, 1.0)))
@settings(deadline=None)
def test_the_most_suspicious_stand_first_and_nobody_is_told_its_own_label(p):
    p = p / p.sum(1, keepdims=True)
    labels = np.arange(len(p)) % 3
    found = suspects(p, labels)
    assert all(s.suggested != s.label == labels[s.row] for s in found)
    assert [s.confidence for s in found] == sorted(s.confidence for s in found)


@pytest.mark.parametrize(("classes", "seed"), [(3, 0), (10, 1)])
def test_flipped_labels_are_most_of_the_first_twentieth(classes, seed):
    features, true, labels, flipped = planted(400, classes, seed)
    p = out_of_fold(features, labels, [str(i) for i in range(400)], seed=0)
    first = suspects(p, labels)[:20]
    hits = [s for s in first if flipped[s.row]]
    assert len(hits) >= 10  # in fact all but one or two: the classes are far apart
    assert len(hits) >= 0.9 * len(first)
    assert all(s.suggested == true[s.row] for s in hits)


def test_right_labels_are_hardly_suspected():
    features, _, labels, _ = planted(400, 4, seed=2, share=0.0)
    assert len(suspects(out_of_fold(features, labels, [str(i) for i in range(400)], seed=0), labels)) <= 4


def test_every_row_is_judged_by_a_model_that_did_not_see_it():
    """The probabilities of one part are those of scikit-learn fitted to the other four."""
    features, _, labels, _ = planted(100, 4, seed=3)
    keys = [str(i) for i in range(100)]
    p, part = out_of_fold(features, labels, keys, seed=7), _parts(labels, keys, 7)
    x = (features - features.mean(0)) / features.std(0) / 4  # 16 features
    model = LogisticRegression(C=10, max_iter=5000, tol=1e-8).fit(x[part != 2], labels[part != 2])
    assert p[part == 2] == pytest.approx(model.predict_proba(x[part == 2]), abs=2e-3)
    assert p.sum(1) == pytest.approx(np.ones(100))


def test_a_copy_does_not_vouch_for_a_wrong_label():
    """A row with a flipped label stands twice. In another part than itself the copy would be learned by heart."""
    features, _, labels, flipped = planted(400, 4, seed=4)
    wrong = int(np.flatnonzero(flipped)[0])
    features, labels = np.vstack([features, features[wrong]]), np.append(labels, labels[wrong])
    keys = [str(i) for i in range(400)] + [str(wrong)]
    part = _parts(labels, keys, 0)
    assert part[wrong] == part[400]
    assert {wrong, 400} <= {s.row for s in suspects(out_of_fold(features, labels, keys, seed=0), labels)}


@given(names, st.integers(0, 5))
@settings(deadline=None)
def test_every_label_is_spread_over_the_parts_evenly(letters, seed):
    labels = np.array(["abcdefghij".index(letter) for letter in letters])
    part = _parts(labels, [str(i) for i in range(len(labels))], seed)
    for label in set(labels):
        counts = np.bincount(part[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_a_label_with_one_text_cannot_be_judged():
    features, _, labels, _ = planted(60, 3, seed=5)
    labels = np.append(labels, [3, 3])
    features = np.vstack([features, features[:1], features[:1]])
    p = out_of_fold(features, labels, [*map(str, range(60)), "twin", "twin"], seed=0)
    assert np.isnan(p[60:]).all()
    assert not np.isnan(p[:60]).any()
