"""What a search is going to cost, measured on a few steps of this very training before it begins."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from migaki.core.units import seconds_text
from migaki.recipe import Recipe
from migaki.search.shared import Shared
from migaki.training.monitor import Monitor
from migaki.trial import attempt

__all__ = ["JUDGING", "Pace", "forecast_text", "measured_pace"]

_STEPS = 4
JUDGING = 0.4
"""What judging a row costs, of what training on it does: the way forward alone is about a third."""
_SHARES = {"none": 1.0, "patience": 0.9, "median": 0.75, "halving": 0.3, "hyperband": 0.7}
"""Of whole trainings, what a pruner leaves. Halving left 24 % of the steps of 24 trials of MiniLM's last
block, and judged them more often."""


@dataclass(frozen=True)
class Pace:
    """How fast this machine trains by a recipe."""

    step_s: float
    row_s: float
    """Of one row that is trained on."""
    begin_s: float
    """Before the first step: copying the weights, the method's own parts, what is kept below the first trained block."""

    def whole_s(self, recipe: Recipe, train: int, valid: int, evaluations: int) -> float:
        """Seconds of a whole training by the recipe, judged so often beside its start."""
        if not recipe.method.takes_steps:
            return self.begin_s
        training = recipe.training
        steps = min(-(-train // training.batch_size) * training.epochs, training.max_steps or 10**12)
        return self.begin_s + steps * self.step_s + JUDGING * self.row_s * valid * (evaluations + 1)


class _EnoughError(Exception):
    """The pace is known."""


class _Steps(Monitor):
    def __init__(self) -> None:
        self.facts: list[Mapping[str, Any]] = []
        self.began = time.monotonic()
        self.begin_s = 0.0

    def start(self, total_steps: int, done: int) -> None:
        self.begin_s = time.monotonic() - self.began

    def step(self, facts: Mapping[str, Any]) -> None:
        self.facts.append(facts)
        if len(self.facts) == _STEPS:
            raise _EnoughError


def measured_pace(recipe: Recipe, shared: Shared, folder: Path) -> Pace:
    """A few steps of the recipe, whose model is thrown away; of a method without steps the whole of it.

    What is kept for all trials (tokens, features, activations of frozen blocks) is made on the way. It is measured once
    for a search.
    """
    kept = folder / "pace.json"
    if kept.is_file():
        return Pace(**json.loads(kept.read_text(encoding="utf-8")))
    place = folder / "pace"
    shutil.rmtree(place, ignore_errors=True)
    # The first time everything is made and kept; what a trial pays each time shows the second time.
    found = [_measured(recipe, shared, place) for _ in range(2)][-1]
    kept.write_text(json.dumps(vars(found)) + "\n", encoding="utf-8")
    return found


def _measured(recipe: Recipe, shared: Shared, place: Path) -> Pace:
    steps, splits = _Steps(), shared.splits(recipe)
    began = time.monotonic()
    try:
        attempt(recipe, splits.train, splits.valid, shared.base(recipe), place, steps)
    except _EnoughError:
        pass
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if not steps.facts:
        return Pace(0.0, 0.0, time.monotonic() - began)
    # The first step also warms up.
    later = steps.facts[1:] or steps.facts
    rows = sum(f["rows"] for f in later)
    return Pace(median(f["seconds"] for f in later), sum(f["seconds"] for f in later) / rows, steps.begin_s)


def forecast_text(trials: int, whole_s: float, pruner: str, finals: int, workers: int) -> str:
    """What is said before the start.

    >>> forecast_text(20, 30.0, "halving", 12, 1)
    '20 trials of about 30 s, of which halving leaves about 30 %, then 12 trainings to make sure: about 9 min 00 s in all'
    """
    searched_s, sure_s = (seconds / workers for seconds in (trials * whole_s * _SHARES[pruner], finals * whole_s))
    left = f", of which {pruner} leaves about {100 * _SHARES[pruner]:.0f} %" if _SHARES[pruner] < 1 else ""
    beside = f" by {workers} workers" if workers > 1 else ""
    return (
        f"{trials} trials of about {seconds_text(whole_s)}{left}, then {finals} trainings to make sure: "
        f"about {seconds_text(searched_s + sure_s)} in all{beside}"
    )
