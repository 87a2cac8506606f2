"""How a learner does at what it was not tuned for: topics told apart by its features, answers it finds likely."""

# Shapes: N rows, D features

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from migaki.core.parts import Featured, Learner
from migaki.core.types import Ability, Choice, Conversation, Dataset, Row, Turn
from migaki.evaluation import out_of_fold

__all__ = ["answer_abilities", "topic_abilities"]

_SEED = 0
"""Of the parts that a set is divided into: the same in every run, so that any two can be compared."""
_AT_ONCE = 12

Watch = Callable[[int], None]


def topic_abilities(learner: Learner, probe: Sequence[Dataset], watch: Watch) -> list[Ability]:
    """Accuracy of a logistic regression on the features of each set's texts (a linear probe).

    Each row is judged by a regression that was fitted to the other four fifths of the set, before and after training on the
    same fifths. The learner's own head has no part in it, for its labels are others.

    Source: Alain & Bengio 2016, arXiv:1610.01644.
    """
    if not isinstance(learner, Featured):
        return []
    found = []
    for dataset in probe:
        features_ND = learner.features(dataset.rows, watch).astype(np.float64)
        names = sorted({row.content.label for row in dataset.rows})
        label_N = np.array([names.index(row.content.label) for row in dataset.rows])
        likely_N = out_of_fold(features_ND, label_N, [row.content.key() for row in dataset.rows], _SEED).argmax(1)
        watch(len(dataset))
        hits = tuple(float(hit) for hit in likely_N == label_N)
        found.append(Ability(dataset.name, "accuracy", hits, (1,) * len(hits)))
    return found


def answer_abilities(learner: Learner, probe: Sequence[Dataset], watch: Watch) -> list[Ability]:
    """Loss on the answers of conversations; of questions with options, how often the right one has the lowest loss per
    token. Rows that the task's length limit cuts off before their answer are left out."""
    measured = [
        _chosen(learner, dataset, watch)
        if isinstance(dataset.rows[0].content, Choice)
        else _said(learner, dataset, watch)
        for dataset in probe
    ]
    return [ability for ability in measured if ability.scores]


def _said(learner: Learner, dataset: Dataset, watch: Watch) -> Ability:
    losses: list[tuple[float, int]] = []
    for at in range(0, len(dataset), _AT_ONCE):
        losses += [found for found in _losses(learner, dataset.rows[at : at + _AT_ONCE]) if found]
        watch(at)
    return Ability(dataset.name, "loss", tuple(loss for loss, _ in losses), tuple(n for _, n in losses))


def _chosen(learner: Learner, dataset: Dataset, watch: Watch) -> Ability:
    hits: list[float] = []
    for number, row in enumerate(dataset.rows):
        # The options of one question have it in common, and what rows have in common is computed once.
        losses = _losses(learner, [_answered(row, option) for option in row.content.options])
        per_token = [loss / n for loss, n in filter(None, losses)]
        if len(per_token) == len(losses):
            hits.append(float(per_token.index(min(per_token)) == row.content.right))
        watch(number)
    return Ability(dataset.name, "accuracy", tuple(hits), (1,) * len(hits))


def _answered(row: Row, option: str) -> Row:
    return Row(row.place, Conversation((Turn("user", row.content.question), Turn("assistant", option))))


def _losses(learner: Learner, rows: Sequence[Row]) -> list[tuple[float, int] | None]:
    predictions = learner.predict(rows, answers=0)
    return [(p.loss, p.targets) if p.loss is not None else None for p in predictions]
