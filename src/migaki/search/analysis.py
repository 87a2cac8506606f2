"""What the trials of a search tell beyond their best: which settings matter, and between which values nothing changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from migaki.search.job import Job
from migaki.search.ledger import Entry
from migaki.search.pruning import Figure
from migaki.search.ranges import Choice
from migaki.search.samplers import distribution_of, parameters_of

__all__ = ["Plateau", "importance_of", "pareto_front", "plateaus_of", "seed_noise"]

_FEWEST = 8


def _comparable(entries: Sequence[Entry]) -> dict[int, Figure]:
    """Figures that mean the same, by the trial's number: those of whole trainings, or of the share of a training that more
    trials have reached."""
    whole = {e.number: e.figure for e in entries if e.state == "finished" and e.figure is not None}
    early = {e.number: e.figures[min(e.figures)] for e in entries if e.figures and min(e.figures) < e.evaluations}
    return early if len(early) > 2 * len(whole) else whole


def importance_of(job: Job, entries: Sequence[Entry]) -> dict[str, float]:
    """Share of the figures' variance that each setting alone and with others explains; they sum to 1, the largest first.

    Empty where fewer than eight trials can be compared, or where all their figures are the same.
    Source: fANOVA, Hutter et al. 2014, ICML, by Optuna.
    """
    import optuna

    space, figures = job.space, _comparable(entries)
    there = [e for e in entries if e.number in figures and space.inside(e.settings)]
    if len(there) < _FEWEST or len({figures[e.number] for e in there}) < 2:
        return {}
    distributions = {path: distribution_of(r) for path, r in space.ranges.items()}
    study = optuna.create_study(direction="maximize")
    for e in there:
        study.add_trial(
            optuna.trial.create_trial(
                params=parameters_of(space, e.settings), distributions=distributions, value=figures[e.number][0]
            )
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=job.seed)
    try:
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (ValueError, RuntimeError):
        return {}  # trees that find no variance to divide
    return {path: float(share) for path, share in found.items() if math.isfinite(share)}


def seed_noise(seeds: Sequence[float]) -> float:
    """Standard deviation of a figure over seeds; 0 where there is one.

    >>> round(seed_noise([0.90, 0.92, 0.94]), 4)
    0.02
    """
    if len(seeds) < 2:
        return 0.0
    middle = sum(seeds) / len(seeds)
    return math.sqrt(sum((x - middle) ** 2 for x in seeds) / (len(seeds) - 1))


@dataclass(frozen=True)
class Plateau:
    """Between these values of a number nothing changes that could be told from chance."""

    setting: str
    low: float
    high: float
    trials: int
    """That lie in it and are no worse than the best beyond the noise."""
    margin: float
    """How much worse than the best still counts as the same."""
    whole: bool
    """Whether it is as wide as all that was tried."""


def plateaus_of(job: Job, entries: Sequence[Entry], margin: float) -> list[Plateau]:
    """For each searched number the values around the best trial's whose trials are no worse than it by more than the
    margin; where a neighbour is worse, the plateau ends before it.

    Of trials with the same value the best counts: the others are worse by another setting.
    """
    figures = _comparable(entries)
    found = []
    for path, r in job.space.ranges.items():
        tried = {float(e.settings[path]) for e in entries if e.number in figures and _is_number(e.settings[path])}
        if (isinstance(r, Choice) and not r.ordered) or len(tried) < 3:
            continue
        best_at: dict[float, float] = {}
        for e in entries:
            if e.number in figures and _is_number(e.settings[path]):
                value, figure = float(e.settings[path]), figures[e.number][0]
                best_at[value] = max(best_at.get(value, -math.inf), figure)
        if plateau := _around_best(path, best_at, margin):
            found.append(plateau)
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _around_best(path: str, best_at: Mapping[float, float], margin: float) -> Plateau | None:
    values = sorted(best_at)
    at = max(range(len(values)), key=lambda i: best_at[values[i]])
    least = best_at[values[at]] - margin - 1e-12
    low = high = at
    while low > 0 and best_at[values[low - 1]] >= least:
        low -= 1
    while high < len(values) - 1 and best_at[values[high + 1]] >= least:
        high += 1
    if low == high:
        return None
    return Plateau(path, values[low], values[high], high - low + 1, margin, high - low + 1 == len(values))


def pareto_front(job: Job, entries: Sequence[Entry]) -> list[int]:
    """Numbers of the trials that no other beats in both objectives, by the second one.

    A trial is on the front where every other that is as small is worse in the figure.
    """
    there = [e for e in entries if e.state == "finished" and len(e.facts.get("values", ())) == 2]
    sign = 1 if job.task.primary[1] == "max" else -1
    front, best = [], -math.inf
    for e in sorted(there, key=lambda e: (e.facts["values"][1], -sign * e.facts["values"][0], e.number)):
        if sign * e.facts["values"][0] > best:
            best = sign * e.facts["values"][0]
            front.append(e.number)
    return front
