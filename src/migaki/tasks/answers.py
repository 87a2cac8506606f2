"""What is said about a row, from the probabilities of its labels."""

# Shapes: C classes

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from migaki.core.types import LabelledMedia, Prediction, Row

__all__ = ["label_answer", "traits_of"]


def label_answer(row: Row, log_C: np.ndarray, labels: Sequence[str]) -> Prediction:
    """The likeliest label and how likely all are.

    Args:
        row: with the one label that is wanted, or None where it is not known.
        log_C: logarithm of the probability of each label.
        labels: the label map, in order.
    """
    best, target = int(log_C.argmax()), row.content.label
    known = target in labels
    return Prediction(
        place=row.place,
        output=labels[best],
        target=target,
        confidence=float(np.exp(log_C[best])),
        loss=float(-log_C[labels.index(target)]) if known else None,
        targets=int(known),
        scores=tuple(np.exp(log_C).tolist()),
        text=row.content.text,
        pair=row.content.pair,
        traits=traits_of(row),
    )


def traits_of(row: Row) -> tuple[tuple[str, float | str], ...]:
    """What is known of the file of a row; of texts nothing."""
    return row.content.media.traits if isinstance(row.content, LabelledMedia) else ()
