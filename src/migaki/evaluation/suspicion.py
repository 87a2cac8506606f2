"""Which labels are probably wrong: confident learning over probabilities of models that never saw the row."""

# Shapes: N rows, C classes, D features

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from migaki.core.seeds import derive

__all__ = ["Suspect", "out_of_fold", "suspects"]

_FOLDS = 5
_LOOSENESS = 10.0
"""The inverse of the penalty. Of 1, 10, 100 and 1000 the one that found most flipped labels (see `suspects`)."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A row whose label is probably wrong: the row's and the two labels' numbers, and how probable each label is."""

    row: int
    label: int
    suggested: int
    confidence: float
    """Probability of the label that the row has (its self-confidence), 0..1."""
    suggested_confidence: float


def suspects(probabilities_NC: np.ndarray, labels_N: np.ndarray) -> list[Suspect]:
    """The rows whose label is probably wrong, the most suspicious first.

    How many: confident learning counts a row under the most probable of the labels that reach their threshold, which is
    the mean probability of the label over the rows that have it, so that a label that is always predicted timidly is
    not held to the standard of a sure one; as many rows are taken as count under another label than their own. Which:
    those with the smallest probability of their own label (self-confidence). The suggestion is the most probable
    other label, and a row whose own label is the most probable one is left out.

    With one label in twenty of CLINC150 flipped (3000 rows, features of MiniLM, two draws), 87 and 92 % of the rows taken
    had a flipped one by domain, 99 % by intent, and they were 80 to 89 % of those that were flipped.

    Args:
        probabilities_NC: from models that did not learn from the row; a line of NaN is a row that cannot be judged.
        labels_N: the label each row has, 0..C-1.
    Source: Northcutt et al. 2021, arXiv:1911.00068, sections 3.1 and 3.2 (there self-confidence ranks within a class).

    >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.9, 0.1]])  # thresholds: (0.9 + 0.8) / 2, (0.7 + 0.1) / 2
    >>> suspects(p, np.array([0, 0, 1, 1]))
    [Suspect(row=3, label=1, suggested=0, confidence=0.1, suggested_confidence=0.9)]
    """
    judged = np.flatnonzero(~np.isnan(probabilities_NC).any(1))
    p_NC, label_N = probabilities_NC[judged], labels_N[judged]
    rows_N = np.arange(len(judged))
    own_N = p_NC[rows_N, label_N]
    n_odd = _counted_elsewhere(p_NC, label_N)
    p_NC = p_NC.copy()
    p_NC[rows_N, label_N] = -1.0
    other_N = p_NC.argmax(1)
    return [
        Suspect(int(judged[i]), int(label_N[i]), int(other_N[i]), float(own_N[i]), float(p_NC[i, other_N[i]]))
        for i in np.argsort(own_N, kind="stable")[:n_odd]
        if p_NC[i, other_N[i]] > own_N[i]
    ]


def _counted_elsewhere(p_NC: np.ndarray, label_N: np.ndarray) -> int:
    """Rows off the diagonal of the confident joint (section 3.1, equation 1)."""
    threshold_C = np.full(p_NC.shape[1], np.inf)
    for c in np.unique(label_N):
        threshold_C[c] = p_NC[label_N == c, c].mean()
    # A mean of equal numbers may come out a rounding above them all.
    reaches_NC = p_NC >= threshold_C - 1e-12
    counted_N = np.where(reaches_NC, p_NC, -1.0).argmax(1)
    return int((reaches_NC.any(1) & (counted_N != label_N)).sum())


def out_of_fold(features_ND: np.ndarray, labels_N: np.ndarray, keys: Sequence[str], seed: int) -> np.ndarray:
    """Probability of each label for each row, (N, C), by a logistic regression that was fitted to other rows.

    The rows are divided into five parts, each label evenly; rows with one key (the same text) are in one part, or a
    copy of a wrong label would vouch for it. Where a label has one key only, its rows cannot be judged, and their lines
    are NaN.

    Args:
        features_ND: of a model that did not learn these labels.
        labels_N: 0..C-1, each of which occurs.
        keys: what makes a row a copy of another.
        seed: decides the parts.
    """
    from sklearn.linear_model import LogisticRegression

    n, n_classes = len(labels_N), int(labels_N.max()) + 1
    part_N = _parts(labels_N, keys, seed)
    spread_D = features_ND.std(0)
    scaled_ND = (features_ND - features_ND.mean(0)) / np.where(spread_D > 0, spread_D, 1.0)
    # The scale at which one step of the penalty means the same for models of any width.
    scaled_ND /= np.sqrt(features_ND.shape[1])
    found_NC = np.zeros((n, n_classes))
    for part in range(_FOLDS):
        held_N = part_N == part
        if not held_N.any() or len(np.unique(labels_N[~held_N])) < 2:
            found_NC[held_N] = np.nan
            continue
        model = LogisticRegression(C=_LOOSENESS, max_iter=1000).fit(scaled_ND[~held_N], labels_N[~held_N])
        found_NC[np.ix_(np.flatnonzero(held_N), model.classes_)] = model.predict_proba(scaled_ND[held_N])
    n_keys = [len({keys[i] for i in np.flatnonzero(labels_N == c).tolist()}) for c in range(n_classes)]
    found_NC[np.array(n_keys)[labels_N] < 2] = np.nan
    return found_NC


def _parts(labels_N: np.ndarray, keys: Sequence[str], seed: int) -> np.ndarray:
    """The part (0..4) of each row: keys in a drawn order, label by label, dealt out in turn."""
    label_of: dict[str, int] = {}
    for key, label in zip(keys, labels_N.tolist(), strict=True):
        label_of[key] = min(label, label_of.get(key, label))
    order = sorted(label_of, key=lambda key: (label_of[key], derive(seed, "fold", key)))
    part_of = {key: place % _FOLDS for place, key in enumerate(order)}
    return np.array([part_of[key] for key in keys])
