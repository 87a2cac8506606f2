"""Accuracy, precision, recall and F1, per class and averaged, with intervals."""

# Shapes: N rows, C classes, K figures at once (1, or the resamples)

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from migaki.core.errors import DataError
from migaki.core.types import Evaluation, Measure, Prediction
from migaki.evaluation.calibration import calibration
from migaki.evaluation.intervals import bootstrap, percentiles, proportion, resample_weights
from migaki.evaluation.recall import recall_at
from migaki.evaluation.slices import accuracy_slices

__all__ = ["PAIRS", "class_rates", "classification", "classification_scores", "ratio"]

PAIRS = 100
"""Confused pairs that are listed; the matrix holds them all."""


def classification(predictions: Sequence[Prediction], labels: Sequence[str], seed: int) -> Evaluation:
    """Metrics on rows with one label each.

    A class counts in the macro average if it is a target or an output of these rows; precision of a class that is
    never predicted, and recall of one that never occurs, are 0 (as scikit-learn with zero_division=0).

    Args:
        predictions: each with its target, which must be in `labels`.
        labels: the label map, in order.
    Raises:
        DataError: no rows, or a row without a known target.
    """
    target_N, output_N = _indices(predictions, labels)
    n, c = len(target_N), len(labels)
    hit_N = target_N == output_N
    weights_SN = resample_weights(n, seed)
    point, spread = _per_class(np.ones((1, n)), target_N, output_N, c), _per_class(weights_SN, target_N, output_N, c)
    metrics = {"accuracy": proportion(int(hit_N.sum()), n)}
    for name, how in (
        ("f1", "macro"),
        ("f1", "weighted"),
        ("precision", "macro"),
        ("recall", "macro"),
        ("precision", "weighted"),
        ("recall", "weighted"),
    ):
        metrics[f"{name}_{how}"] = percentiles(
            float(_average(point, name, how)[0]), _average(spread, name, how), n, share=True
        )
    # With one label for each row the micro averages are all the accuracy; F1 is named because people look for it.
    metrics["f1_micro"] = metrics["accuracy"]
    if all(p.loss is not None for p in predictions):
        loss_N = np.array([p.loss for p in predictions])
        metrics["loss"] = bootstrap(loss_N, seed, lambda weights_KN: weights_KN @ loss_N / n)
    return Evaluation(metrics, _details(predictions, labels, target_N, output_N, seed), predictions)


def classification_scores(predictions: Sequence[Prediction], labels: Sequence[str]) -> dict[str, float]:
    """Accuracy, macro F1 and mean loss without intervals, for watching a training."""
    target_N, output_N = _indices(predictions, labels)
    point = _per_class(np.ones((1, len(target_N))), target_N, output_N, len(labels))
    return {
        "loss": float(np.mean([p.loss for p in predictions])),
        "accuracy": float((target_N == output_N).mean()),
        "f1_macro": float(_average(point, "f1", "macro")[0]),
    }


def _indices(predictions: Sequence[Prediction], labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    if not predictions:
        raise DataError("There are no rows to judge. Give at least one row with a label.")
    index = {label: i for i, label in enumerate(labels)}
    for prediction in predictions:
        if prediction.target is None:
            raise DataError(f"{prediction.place} has no label, so it cannot be judged. Give it one, or remove the row.")
        if prediction.target not in index:
            raise DataError(
                f"{prediction.place} has the label {prediction.target!r}, which the model does not know. Correct it, or train with rows of that label."
            )
    return np.array([index[p.target] for p in predictions if p.target is not None]), np.array(
        [index[p.output] for p in predictions]
    )


def _per_class(weights_KN: np.ndarray, target_N: np.ndarray, output_N: np.ndarray, c: int) -> dict[str, np.ndarray]:
    """Counts and rates of each class, each (K, C), for K weightings of the rows."""
    classes_C = np.arange(c)
    is_target_NC = (target_N[:, None] == classes_C).astype(np.float64)
    is_output_NC = (output_N[:, None] == classes_C).astype(np.float64)
    hits_KC = weights_KN @ (is_target_NC * is_output_NC)
    support_KC, predicted_KC = weights_KN @ is_target_NC, weights_KN @ is_output_NC
    return {
        "support": support_KC,
        "predicted": predicted_KC,
        "precision": ratio(hits_KC, predicted_KC),
        "recall": ratio(hits_KC, support_KC),
        "f1": ratio(2 * hits_KC, support_KC + predicted_KC),
    }


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Element by element, 0 where there is nothing below the line."""
    ratio = np.zeros_like(above)
    np.divide(above, below, out=ratio, where=below > 0)
    return ratio


def _average(rates: dict[str, np.ndarray], name: str, how: str) -> np.ndarray:
    """(K,) averages over classes: each class alike, or each by its number of rows."""
    weight_KC = (
        rates["support"] if how == "weighted" else ((rates["support"] + rates["predicted"]) > 0).astype(np.float64)
    )
    return np.asarray((rates[name] * weight_KC).sum(1) / weight_KC.sum(1))


def class_rates(hits: int, support: int, predicted: int) -> dict[str, Measure]:
    """Precision, recall and F1 of one class with score intervals; its n is what each is a share of.

    F1 is 2J / (1 + J) of the Jaccard index J, the share of hits among rows that are or are said to be of the class, and
    grows with J, so the ends of J's interval carry over. The bootstrap would call a class of one row certain.
    """

    def share(of: int) -> Measure:
        return proportion(hits, of) if of else Measure(0.0, 0.0, 1.0, 0)

    jaccard = share(support + predicted - hits)
    value, low, high = (2 * j / (1 + j) for j in (jaccard.value, jaccard.low, jaccard.high))
    f1 = Measure(value, low, high, jaccard.n)
    return {"precision": share(predicted), "recall": share(support), "f1": f1}


def _details(
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    target_N: np.ndarray,
    output_N: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    n, c = len(target_N), len(labels)
    confusion_CC = np.zeros((c, c), dtype=np.int64)
    np.add.at(confusion_CC, (target_N, output_N), 1)
    support_C, predicted_C = confusion_CC.sum(1), confusion_CC.sum(0)
    per_class = {}
    for i, label in enumerate(labels):
        if support_C[i] + predicted_C[i] == 0:
            continue
        rates = class_rates(int(confusion_CC[i, i]), int(support_C[i]), int(predicted_C[i]))
        per_class[label] = {
            **{name: measure.as_json() for name, measure in rates.items()},
            "support": int(support_C[i]),
            "predicted": int(predicted_C[i]),
        }
    majority = int(support_C.argmax())
    return {
        "labels": list(labels),
        "confusion": confusion_CC.tolist(),
        "per_class": per_class,
        "never_predicted": [label for i, label in enumerate(labels) if support_C[i] > 0 and predicted_C[i] == 0],
        "majority": {"label": labels[majority], "accuracy": proportion(int(support_C[majority]), n).as_json()},
        "confused_pairs": _confused_pairs(confusion_CC, labels),
        "slices": accuracy_slices(predictions),
        "calibration": calibration(predictions, seed),
        **({"recall_at": found} if (found := recall_at(predictions)) else {}),
    }


def _confused_pairs(confusion_CC: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Which label is taken for which, the most frequent first, each with its share of the rows of the true label."""
    pairs = [
        {
            "target": labels[i],
            "output": labels[j],
            "n": int(confusion_CC[i, j]),
            "share": proportion(int(confusion_CC[i, j]), int(confusion_CC[i].sum())).as_json(),
        }
        for i, j in np.argwhere(confusion_CC)
        if i != j
    ]
    pairs.sort(key=lambda pair: (-pair["n"], -pair["share"]["value"], pair["target"], pair["output"]))
    return pairs[:PAIRS]
