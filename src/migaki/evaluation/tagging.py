"""Where parts of a text are named: precision, recall and F1 of the parts, exact and by halves, and what goes wrong."""

# Shapes: N rows, C labels, K figures at once (1, or the resamples), S resamples

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from migaki.core.errors import DataError
from migaki.core.types import Evaluation, Prediction, Span, spans_from_text
from migaki.evaluation.classification import PAIRS, class_rates, ratio
from migaki.evaluation.intervals import bootstrap, percentiles, proportion, resample_weights
from migaki.evaluation.slices import accuracy_slices

__all__ = ["SpanMatch", "match_spans", "tagging", "tagging_scores"]

_NO_LABEL = "∅"
"""Stands for nothing where a part was missed, or found where there is none."""


@dataclass
class SpanMatch:
    """How the parts that were found in a text fit those that are there."""

    exact: int = 0
    """Same characters, whatever the label."""
    partial: int = 0
    """Some of the same characters, whatever the label."""
    correct: list[Span] = field(default_factory=list)
    """Same characters and same label."""
    relabelled: list[tuple[Span, Span]] = field(default_factory=list)
    """The wanted and the found one: same characters, another label."""
    moved: list[tuple[Span, Span]] = field(default_factory=list)
    """Other borders, the same label."""
    mixed_up: list[tuple[Span, Span]] = field(default_factory=list)
    """Other borders and another label."""
    missed: list[Span] = field(default_factory=list)
    """No found one stands on any of its characters."""
    spurious: list[Span] = field(default_factory=list)
    """Found where there is none."""


def match_spans(wanted: Sequence[Span], found: Sequence[Span]) -> SpanMatch:
    """Each found part with at most one wanted part: the one on the same characters, else the first free one that it shares
    characters with.

    Source: the SemEval-2013 measures (Segura-Bedmar et al. 2013, task 9) as nervaluate counts them.

    >>> m = match_spans([Span(0, 3, "A"), Span(5, 9, "B")], [Span(0, 3, "B"), Span(6, 9, "B"), Span(10, 12, "A")])
    >>> m.exact, m.partial, len(m.relabelled), len(m.moved), len(m.spurious)
    (1, 1, 1, 1, 1)
    """
    free, match = list(wanted), SpanMatch()
    for span in found:
        twin = next((w for w in free if (w.start, w.end) == (span.start, span.end)), None)
        touched = twin or next((w for w in free if w.start < span.end and span.start < w.end), None)
        if touched is None:
            match.spurious.append(span)
            continue
        free.remove(touched)
        if twin:
            match.exact += 1
            if twin.label == span.label:
                match.correct.append(span)
            else:
                match.relabelled.append((twin, span))
        else:
            match.partial += 1
            (match.moved if touched.label == span.label else match.mixed_up).append((touched, span))
    match.missed = free
    return match


def tagging(predictions: Sequence[Prediction], labels: Sequence[str], seed: int) -> Evaluation:
    """Metrics over the named parts of all rows.

    `f1`, `precision` and `recall` count a part whose characters and label are both right (micro average, as seqeval and
    conlleval do); `_partial` counts the same characters whole and shared ones by half, whatever the label. `exact_match`
    is the share of rows in which everything is right. Intervals by resampling whole rows.

    Args:
        predictions: each with its spans and its target.
        labels: the labels in order.
    Raises:
        DataError: no rows, or a row without known spans.
    """
    wanted = _wanted(predictions, labels)
    matches = [match_spans(w, p.spans) for w, p in zip(wanted, predictions, strict=True)]
    n = len(predictions)
    hits_NC = _counted([m.correct for m in matches], labels)
    wanted_NC, found_NC = _counted(wanted, labels), _counted([p.spans for p in predictions], labels)
    halves_N = np.array([m.exact + 0.5 * m.partial for m in matches])
    weights_SN = resample_weights(n, seed)
    point = _figures(np.ones((1, n)), hits_NC, wanted_NC, found_NC, halves_N)
    spread = _figures(weights_SN, hits_NC, wanted_NC, found_NC, halves_N)
    metrics = {name: percentiles(float(point[name][0]), spread[name], n, share=True) for name in point}
    right = sum(p.output == p.target for p in predictions)
    metrics["exact_match"] = proportion(right, n)
    if all(p.loss is not None for p in predictions):
        loss_N, targets_N = np.array([p.loss for p in predictions]), np.array([p.targets for p in predictions])
        metrics["loss"] = bootstrap(loss_N, seed, lambda w_KN: (w_KN @ loss_N) / np.maximum(w_KN @ targets_N, 1))
    details = {
        "answers": "spans",
        "labels": list(labels),
        "per_class": _per_label(hits_NC.sum(0), wanted_NC.sum(0), found_NC.sum(0), labels),
        "never_predicted": [
            label for i, label in enumerate(labels) if wanted_NC[:, i].any() and not found_NC[:, i].any()
        ],
        "span_errors": {
            "correct": sum(len(m.correct) for m in matches),
            "relabelled": sum(len(m.relabelled) for m in matches),
            "moved": sum(len(m.moved) for m in matches),
            "mixed_up": sum(len(m.mixed_up) for m in matches),
            "missed": sum(len(m.missed) for m in matches),
            "spurious": sum(len(m.spurious) for m in matches),
        },
        "confused_pairs": _taken_for(matches, wanted),
        "slices": accuracy_slices(predictions, by_label=False),
    }
    return Evaluation(metrics, details, predictions)


def tagging_scores(predictions: Sequence[Prediction], labels: Sequence[str]) -> dict[str, float]:
    """Loss and exact F1 without intervals, for watching a training."""
    wanted = _wanted(predictions, labels)
    hits = sum(len(set(w) & set(p.spans)) for w, p in zip(wanted, predictions, strict=True))
    counted = sum(len(w) + len(p.spans) for w, p in zip(wanted, predictions, strict=True))
    targets = sum(p.targets for p in predictions)
    return {
        "loss": sum(p.loss or 0.0 for p in predictions) / max(targets, 1),
        "f1": 2 * hits / counted if counted else 0.0,
    }


def _wanted(predictions: Sequence[Prediction], labels: Sequence[str]) -> list[tuple[Span, ...]]:
    if not predictions:
        raise DataError("There are no rows to judge. Give at least one row with its spans.")
    known, found = set(labels), []
    for p in predictions:
        if p.target is None:
            raise DataError(
                f"{p.place} has no spans, so it cannot be judged. Write [] where nothing is named, or remove the row."
            )
        spans = spans_from_text(p.target)
        odd = next((span for span in spans if span.label not in known), None)
        if odd is not None:
            raise DataError(
                f"{p.place} has the label {odd.label!r}, which the model does not know. Correct it, or train with rows of that "
                "label."
            )
        found.append(spans)
    return found


def _counted(spans: Sequence[Sequence[Span]], labels: Sequence[str]) -> np.ndarray:
    """How many spans of each label each row has, (N, C)."""
    index = {label: i for i, label in enumerate(labels)}
    found_NC = np.zeros((len(spans), len(labels)))
    for number, row in enumerate(spans):
        for span in row:
            found_NC[number, index[span.label]] += 1
    return found_NC


def _figures(
    weights_KN: np.ndarray, hits_NC: np.ndarray, wanted_NC: np.ndarray, found_NC: np.ndarray, halves_N: np.ndarray
) -> dict[str, np.ndarray]:
    """Every figure, each (K,), for K weightings of the rows."""
    hits_KC, wanted_KC, found_KC = (weights_KN @ x_NC for x_NC in (hits_NC, wanted_NC, found_NC))
    hits_K, wanted_K, found_K, halves_K = hits_KC.sum(1), wanted_KC.sum(1), found_KC.sum(1), weights_KN @ halves_N
    f1_KC, counts_KC = ratio(2 * hits_KC, wanted_KC + found_KC), (wanted_KC + found_KC) > 0
    return {
        "f1": ratio(2 * hits_K, wanted_K + found_K),
        "precision": ratio(hits_K, found_K),
        "recall": ratio(hits_K, wanted_K),
        "f1_macro": f1_KC.sum(1) / np.maximum(counts_KC.sum(1), 1),
        "f1_partial": ratio(2 * halves_K, wanted_K + found_K),
        "precision_partial": ratio(halves_K, found_K),
        "recall_partial": ratio(halves_K, wanted_K),
    }


def _per_label(
    hits_C: np.ndarray, wanted_C: np.ndarray, found_C: np.ndarray, labels: Sequence[str]
) -> dict[str, dict[str, Any]]:
    found = {}
    for i, label in enumerate(labels):
        if wanted_C[i] + found_C[i]:
            rates = class_rates(int(hits_C[i]), int(wanted_C[i]), int(found_C[i]))
            found[label] = {
                **{name: measure.as_json() for name, measure in rates.items()},
                "support": int(wanted_C[i]),
                "predicted": int(found_C[i]),
            }
    return found


def _taken_for(matches: Sequence[SpanMatch], wanted: Sequence[Sequence[Span]]) -> list[dict[str, Any]]:
    """What stands where a part is wanted, and what is wanted where one was found, the most frequent first."""
    of_label = Counter(span.label for row in wanted for span in row)
    counts: Counter[tuple[str, str]] = Counter()
    for match in matches:
        counts.update((w.label, f.label) for w, f in (*match.relabelled, *match.mixed_up))
        counts.update((span.label, _NO_LABEL) for span in match.missed)
        counts.update((_NO_LABEL, span.label) for span in match.spurious)
    n_found = sum(len(m.correct) + m.partial + len(m.relabelled) + len(m.spurious) for m in matches)
    pairs: list[dict[str, Any]] = [
        {
            "target": target,
            "output": output,
            "n": n,
            # What is wanted nowhere has no rows of its own: it is a share of all that was found.
            "share": proportion(n, of_label[target] if target != _NO_LABEL else n_found).as_json(),
        }
        for (target, output), n in counts.items()
    ]
    pairs.sort(key=lambda pair: (-pair["n"], -pair["share"]["value"], pair["target"], pair["output"]))
    return pairs[:PAIRS]
