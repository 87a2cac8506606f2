"""Where a row may have any number of labels: F1 over rows, labels and both, the threshold, and what is taken for what."""

# Shapes: N rows, C labels, K figures at once (1, or the resamples), B bins, S resamples

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from migaki.core.errors import DataError
from migaki.core.types import Evaluation, Measure, Prediction
from migaki.evaluation.calibration import row_calibration
from migaki.evaluation.classification import PAIRS, class_rates, ratio
from migaki.evaluation.intervals import bootstrap, percentiles, proportion, resample_weights
from migaki.evaluation.slices import accuracy_slices

__all__ = ["best_threshold", "labelling", "labelling_scores"]


def best_threshold(predictions: Sequence[Prediction], labels: Sequence[str]) -> float:
    """The one threshold for all labels with the highest micro F1 on these rows: half way between the two probabilities that
    it parts. 0.5 where no row has a label. Of equally good ones the highest.

    Args:
        predictions: each with the `scores` of all labels and its target.

    >>> from migaki.core.types import Place
    >>> rows = [Prediction(Place("r", 1), "[]", '["a"]', scores=(0.3, 0.1)), Prediction(Place("r", 2), "[]", "[]", scores=(0.2, 0.1))]
    >>> best_threshold(rows, ["a", "b"])
    0.25
    """
    scores_NC, wanted_NC = np.array([p.scores for p in predictions]), _wanted(predictions, labels)
    order = np.argsort(-scores_NC, axis=None, kind="stable")
    score_K, hit_K = scores_NC.reshape(-1)[order], wanted_NC.reshape(-1)[order]
    total = int(hit_K.sum())
    if not total:
        return 0.5
    f1_K = 2 * np.cumsum(hit_K) / (np.arange(1, len(hit_K) + 1) + total)
    below_K = np.append(score_K[1:], 0.0)
    # Equal probabilities cannot be parted.
    f1_K[score_K == below_K] = -1.0
    best = int(f1_K.argmax())
    return float(np.clip((score_K[best] + below_K[best]) / 2, 1e-6, 1 - 1e-6))


def labelling(predictions: Sequence[Prediction], labels: Sequence[str], seed: int) -> Evaluation:
    """Metrics on rows with any number of labels each.

    Micro: all labels of all rows counted together; macro: the mean over the labels that are a target or an output of
    these rows; samples: the mean over the rows, where a row that rightly has no label counts 1. `exact_match` is the share
    of rows with exactly the right labels (subset accuracy).

    Args:
        predictions: each with its target.
        labels: the label map, in order.
    Raises:
        DataError: no rows, or a row without known labels.
    """
    wanted_NC, given_NC = _wanted(predictions, labels), _given(predictions, labels)
    n = len(predictions)
    weights_SN = resample_weights(n, seed)
    point, spread = _figures(np.ones((1, n)), wanted_NC, given_NC), _figures(weights_SN, wanted_NC, given_NC)
    metrics = {name: percentiles(float(point[name][0]), spread[name], n, share=True) for name in point}
    metrics["exact_match"] = proportion(int((wanted_NC == given_NC).all(1).sum()), n)
    if all(p.loss is not None for p in predictions):
        loss_N, targets_N = np.array([p.loss for p in predictions]), np.array([p.targets for p in predictions])
        metrics["loss"] = bootstrap(loss_N, seed, lambda w_KN: (w_KN @ loss_N) / (w_KN @ targets_N))
    return Evaluation(metrics, _details(predictions, labels, wanted_NC, given_NC, seed), predictions)


def labelling_scores(
    predictions: Sequence[Prediction], labels: Sequence[str], threshold: float | None = None
) -> dict[str, float]:
    """Loss and F1 without intervals, for watching a training; at the threshold that suits these rows best where none is
    given, since that is how it is chosen in the end."""
    if threshold is None:
        threshold = best_threshold(predictions, labels)
    wanted_NC = _wanted(predictions, labels)
    given_NC = np.array([p.scores for p in predictions]) > threshold
    figures = _figures(np.ones((1, len(predictions))), wanted_NC, given_NC)
    loss, targets = sum(p.loss or 0.0 for p in predictions), sum(p.targets for p in predictions)
    return {
        "loss": loss / targets,
        "f1_micro": float(figures["f1_micro"][0]),
        "f1_macro": float(figures["f1_macro"][0]),
        "exact_match": float((wanted_NC == given_NC).all(1).mean()),
    }


def _wanted(predictions: Sequence[Prediction], labels: Sequence[str]) -> np.ndarray:
    """Whether each label is right for each row, (N, C) bool."""
    if not predictions:
        raise DataError("There are no rows to judge. Give at least one row with its labels.")
    known = set(labels)
    found = []
    for p in predictions:
        if p.target is None:
            raise DataError(
                f"{p.place} has no labels, so it cannot be judged. Write [] where none is right, or remove the row."
            )
        wanted = set(json.loads(p.target))
        if wanted - known:
            raise DataError(
                f"{p.place} has the label {min(wanted - known)!r}, which the model does not know. Correct it, or train with "
                "rows of that label."
            )
        found.append([label in wanted for label in labels])
    return np.array(found, dtype=bool).reshape(len(predictions), len(labels))


def _given(predictions: Sequence[Prediction], labels: Sequence[str]) -> np.ndarray:
    given = [set(p.labels) for p in predictions]
    return np.array([[label in one for label in labels] for one in given], dtype=bool).reshape(
        len(predictions), len(labels)
    )


def _figures(weights_KN: np.ndarray, wanted_NC: np.ndarray, given_NC: np.ndarray) -> dict[str, np.ndarray]:
    """Every figure that is made of hits, each (K,), for K weightings of the rows."""
    hits_NC = (wanted_NC & given_NC).astype(np.float64)
    hits_KC = weights_KN @ hits_NC
    support_KC, given_KC = weights_KN @ wanted_NC.astype(np.float64), weights_KN @ given_NC.astype(np.float64)
    hits_K, support_K, given_K = hits_KC.sum(1), support_KC.sum(1), given_KC.sum(1)
    f1_KC, counts_KC = ratio(2 * hits_KC, support_KC + given_KC), (support_KC + given_KC) > 0
    both_N = wanted_NC.sum(1) + given_NC.sum(1)
    f1_N = np.where(both_N > 0, 2 * hits_NC.sum(1) / np.maximum(both_N, 1), 1.0)
    return {
        "f1_micro": ratio(2 * hits_K, support_K + given_K),
        "precision_micro": ratio(hits_K, given_K),
        "recall_micro": ratio(hits_K, support_K),
        "f1_macro": f1_KC.sum(1) / np.maximum(counts_KC.sum(1), 1),
        "f1_samples": weights_KN @ f1_N / weights_KN.sum(1),
    }


def _details(
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    wanted_NC: np.ndarray,
    given_NC: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    hits_C, support_C, given_C = ((x).sum(0) for x in (wanted_NC & given_NC, wanted_NC, given_NC))
    per_class: dict[str, Any] = {}
    for i, label in enumerate(labels):
        if support_C[i] + given_C[i]:
            rates: Mapping[str, Measure] = class_rates(int(hits_C[i]), int(support_C[i]), int(given_C[i]))
            per_class[label] = {
                **{name: measure.as_json() for name, measure in rates.items()},
                "support": int(support_C[i]),
                "predicted": int(given_C[i]),
            }
    found: dict[str, Any] = {
        "answers": "labels",
        "labels": list(labels),
        "per_class": per_class,
        "never_predicted": [label for i, label in enumerate(labels) if support_C[i] and not given_C[i]],
        "confused_pairs": _taken_for(wanted_NC, given_NC, labels),
        "slices": accuracy_slices(predictions, by_label=False),
    }
    if all(len(p.scores) == len(labels) for p in predictions):
        found["calibration"] = row_calibration(np.array([p.scores for p in predictions]), wanted_NC, seed)
    return found


def _taken_for(wanted_NC: np.ndarray, given_NC: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Labels that were missed in rows that got another one wrongly, the most frequent pairs first, each with its share of
    the rows that have the missed label."""
    counts: Counter[tuple[int, int]] = Counter()
    for missed_C, wrong_C in zip(wanted_NC & ~given_NC, given_NC & ~wanted_NC, strict=True):
        counts.update((i, j) for i in np.flatnonzero(missed_C).tolist() for j in np.flatnonzero(wrong_C).tolist())
    pairs: list[dict[str, Any]] = [
        {
            "target": labels[i],
            "output": labels[j],
            "n": n,
            "share": proportion(n, int(wanted_NC[:, i].sum())).as_json(),
        }
        for (i, j), n in counts.items()
    ]
    pairs.sort(key=lambda pair: (-pair["n"], -pair["share"]["value"], pair["target"], pair["output"]))
    return pairs[:PAIRS]
