"""A minute of measurement for each model at hand: how well a classifier on its frozen features does on the user's rows."""

# N rows, C classes

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from migaki.core.seeds import derive
from migaki.core.types import Dataset, Row, Splits
from migaki.evaluation.comparison import Outcomes, groups
from migaki.evaluation.intervals import proportion
from migaki.evaluation.suspicion import out_of_fold
from migaki.models import Model
from migaki.recipe import Recipe
from migaki.run import base_features

if TYPE_CHECKING:
    from migaki.choosing.choose import Candidate

__all__ = ["probed", "sample"]

_ROWS, _FEWEST, _SECONDS = 3000, 300, 60.0
"""Train rows that are looked at: so many, or as many as the slowest model reads in a minute. With 1,000 rows of 150 intents,
seven of each, e5-small seemed worse than MiniLM; with 3,000, as after fine-tuning, they cannot be told apart."""


def probed(candidates: Sequence[Candidate], splits: Splits) -> list[Candidate]:
    """The candidates with the accuracy of those at hand, which come first, the best one before the others; those that cannot
    be told apart are one group."""
    at_hand = [c for c in candidates if c.at_hand]
    slowest_s = max((e.seconds for c in at_hand for e in c.estimates if e.method == "probe"), default=0.0)
    in_time = int(len(splits.train) * _SECONDS / max(slowest_s, 1e-9))
    rows = sample(splits.train.rows, max(_FEWEST, min(_ROWS, in_time)))
    hits = {c.card.reference: hit_N for c in at_hand if (hit_N := _hits(c, rows)) is not None}
    told = groups({name: Outcomes.of([hit_N], [1.0] * len(hit_N)) for name, hit_N in hits.items()}, "max", 0)
    group = {name: number for number, names in enumerate(told, 1) for name in names}
    found = [
        replace(c, probed={**_measure(hits[c.card.reference]), "group": group[c.card.reference]})
        if c.card.reference in hits
        else c
        for c in candidates
    ]
    return sorted(found, key=lambda c: -c.probed["value"] if c.probed else 1.0)


def sample(rows: Sequence[Row], n: int) -> list[Row]:
    """At most n rows, of each label its share, at least two; the same ones whatever the order of the file."""
    by_label: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        by_label[row.content.label].append(row)
    share = min(1.0, n / len(rows))
    chosen = []
    for _, members in sorted(by_label.items()):
        members.sort(key=lambda row: derive(0, "probe", row.content.key()))
        chosen += members[: max(2, round(share * len(members)))]
    return chosen


def _hits(candidate: Candidate, rows: Sequence[Row]) -> list[float] | None:
    """Whether each row is told right by a classifier that has not seen it, in five parts; None where there are no features."""
    train = Dataset("train", tuple(rows))
    recipe = Recipe(
        task="classify_text",
        method="probe",
        model=Model(reference=candidate.card.reference),
        data={"train": [row.content.as_json() for row in rows]},
    )
    features_ND = base_features(recipe, Path("runs"), train, rows)
    if features_ND is None:
        return None
    labels = sorted({row.content.label for row in rows})
    label_N = np.array([labels.index(row.content.label) for row in rows])
    p_NC = out_of_fold(features_ND, label_N, [row.content.key() for row in rows], 0)
    judged_N = ~np.isnan(p_NC).any(1)
    return [float(hit) for hit in p_NC[judged_N].argmax(1) == label_N[judged_N]]


def _measure(hits: Sequence[float]) -> dict[str, float]:
    return {name: float(value) for name, value in proportion(int(sum(hits)), len(hits)).as_json().items()}
