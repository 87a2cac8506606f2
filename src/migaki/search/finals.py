"""The honest end: the best trials and the default are trained anew with several seeds, the better one on the validation
rows is chosen, and the test rows are opened once, to say what is gained and how sure that is.

The best of many trials looks better than it is, for it had luck with its seed and with the validation rows. So its figure
from the search counts for nothing here: every model of the end has a seed that no trial had, and what is said in the end
is said by rows that no choice has seen.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from migaki.core.errors import DamagedError
from migaki.core.store import locked, read_json, write_file
from migaki.evaluation.comparison import ALPHA, Outcomes, difference, measure
from migaki.recipe import Recipe
from migaki.search.job import Job, figure_of
from migaki.search.ledger import Entry
from migaki.search.pruning import Figure
from migaki.search.shared import Shared
from migaki.search.space import Settings
from migaki.trial import Trial, learned, outcomes_of, result_of

__all__ = ["DEFAULT", "Ending", "Final", "ending", "plan_of", "ranked"]

DEFAULT = "default"
_PLAN, _TEST, _FAILED = "finals.json", "test.json", "failed.json"


@dataclass(frozen=True)
class Final:
    """One training of the end."""

    name: str
    """default, or `trial N`."""
    settings: Settings
    recipe: Recipe
    folder: Path

    def result(self) -> Trial | str | None:
        """How it ended: the reason where it failed, None where it has not ended yet."""
        found = result_of(self.folder)
        if found is None and (self.folder / _FAILED).is_file():
            return str(read_json(self.folder / _FAILED)["reason"])
        return found

    def fail(self, reason: str) -> None:
        """Write down that it has no figure, and why."""
        write_file(self.folder / _FAILED, json.dumps({"reason": reason}, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class Ending:
    """What the end found out."""

    candidate: str | None
    """The best of the candidates on the validation rows; None where there was none."""
    beats_default: bool
    gain: dict[str, float]
    """On the test rows, candidate minus default, with its interval over rows and seeds."""
    p_value: float
    figures: Mapping[str, Mapping[str, Any]]
    """By the name of a final: its settings, `valid` and, where the test rows were opened for it, `test`."""
    looks: int


def ranked(job: Job, entries: Sequence[Entry]) -> list[Entry]:
    """Trials that have a figure, the best first: those that were trained to their end before those that were not."""

    def key(entry: Entry) -> tuple[bool, Figure, int]:
        assert entry.figure is not None
        return (entry.state == "finished", entry.figure, -entry.number)

    there = [e for e in entries if e.figure is not None and e.state in ("finished", "stopped")]
    return sorted(there, key=key, reverse=True)


def plan_of(job: Job, entries: Sequence[Entry]) -> list[Final]:
    """Which settings are trained anew with which seeds; decided once, and the same for all workers."""
    path = job.folder / _PLAN
    with locked(job.folder):
        try:
            plan = read_json(path)
        except DamagedError:
            plan = {}
        if plan.get("trials") != len(entries) or plan.get("seeds") != job.seeds:
            plan = {"trials": len(entries), "seeds": job.seeds, "chosen": _chosen(job, entries)}
            write_file(path, json.dumps(plan, ensure_ascii=False, indent=1) + "\n")
    found = []
    for name, settings in plan["chosen"]:
        recipe = job.recipe(settings)
        # The seed of the trials is left out: the best of them had luck with it.
        numbers = range(1, job.seeds + 1) if recipe.method.varies_with_seed else range(1)
        found += [_final(job, name, settings, recipe, job.seed + number) for number in numbers]
    # The first seed of everybody comes before the second of anybody, so that what is there can be compared at any time.
    return sorted(found, key=lambda final: final.recipe.seed)


def _final(job: Job, name: str, settings: Settings, recipe: Recipe, seed: int) -> Final:
    recipe = recipe.model_copy(update={"seed": seed})
    key = hashlib.sha256(recipe.to_yaml().encode()).hexdigest()[:12]
    return Final(name, settings, recipe, job.folder / "finals" / key)


def _chosen(job: Job, entries: Sequence[Entry]) -> list[tuple[str, Settings]]:
    default = job.space.defaults
    best = [e for e in ranked(job, entries) if e.settings != default][: _how_many(job, entries)]
    return [(DEFAULT, dict(default)), *((f"trial {e.name}", dict(e.settings)) for e in best)]


def _how_many(job: Job, entries: Sequence[Entry]) -> int:
    """Candidates, as many as there is time for; one at least."""
    if job.deadline_s is None:
        return job.candidates
    known = [e.facts["seconds"] for e in entries if e.state == "finished"]
    whole_s = mean(known) if known else job.whole_s
    rounds = (job.deadline_s - time.time()) * job.workers / max(whole_s * job.seeds, 1e-9)
    return max(1, min(job.candidates, int(rounds) - 1))


def ending(job: Job, shared: Shared, plan: Sequence[Final], looks: int) -> Ending:
    """Choose by the validation rows, then open the test rows for the choice and the default.

    Args:
        plan: all of it trained.
        looks: how often the validation rows were judged before.
    """
    _, better = job.task.primary
    sign = 1 if better == "max" else -1
    results = {name: [f.result() for f in plan if f.name == name] for name in dict.fromkeys(f.name for f in plan)}
    whole = {name: [r for r in found if isinstance(r, Trial)] for name, found in results.items()}
    # Settings that fail with one of the seeds are none to be named.
    judged = {name: found for name, found in whole.items() if len(found) == len(results[name])}
    figures: dict[str, dict[str, Any]] = {}
    for final in plan:
        figures.setdefault(final.name, {"settings": dict(final.settings), "valid": None, "test": None})
    for name, found in judged.items():
        figures[name]["valid"] = _measured(_valid_outcomes(found), job.seed)
    names = [name for name in judged if name != DEFAULT]
    candidate = max(names, key=lambda name: _mean_figure(job, judged[name]), default=None)
    looks += sum(r.evaluations for found in whole.values() for r in found)
    opened = [name for name in (DEFAULT, candidate) if name in judged]
    outcomes = {name: _test_outcomes(job, shared, [f for f in plan if f.name == name]) for name in opened}
    for name, found_there in outcomes.items():
        figures[name]["test"] = _measured(found_there, job.seed)
    if candidate is None or DEFAULT not in outcomes:
        won = candidate is not None
        return Ending(candidate, won, {"value": 0.0, "low": 0.0, "high": 0.0}, 0.0 if won else 1.0, figures, looks)
    gap, p = difference(outcomes[candidate], outcomes[DEFAULT], job.seed)
    better_on_valid = _mean_figure(job, judged[candidate]) > _mean_figure(job, judged[DEFAULT])
    beats = bool(better_on_valid and sign * gap.value > 0 and p < ALPHA)
    # Two models that answer alike differ by the rounding of sums alone.
    gain = {"value": round(gap.value, 12), "low": round(gap.low, 12), "high": round(gap.high, 12)}
    return Ending(candidate, beats, gain, p, figures, looks)


def _mean_figure(job: Job, found: Sequence[Trial]) -> tuple[float, float]:
    pairs = [figure_of(job.task, trial.scores) for trial in found]
    return mean(first for first, _ in pairs), mean(second for _, second in pairs)


def _valid_outcomes(found: Sequence[Trial]) -> Outcomes:
    return _outcomes([trial.gained for trial in found], [trial.weights for trial in found])


def _outcomes(gained: Sequence[Sequence[float]], weights: Sequence[Sequence[float]]) -> Outcomes:
    alike = all(list(w) == list(weights[0]) for w in weights)
    return Outcomes.of(gained, weights[0]) if alike else Outcomes.of(gained, weights)


def _measured(outcomes: Outcomes, seed: int) -> dict[str, Any]:
    return {**measure(outcomes, seed).as_json(), "seeds": outcomes.seeds}


def _test_outcomes(job: Job, shared: Shared, finals: Sequence[Final]) -> Outcomes:
    """What the models of a name say about the test rows; asked once, and kept beside each."""
    found = []
    for final in finals:
        path = final.folder / _TEST
        if not path.is_file():
            splits = shared.splits(final.recipe)
            learner = learned(final.recipe, splits.train, splits.valid, shared.base(final.recipe), final.folder)
            said = outcomes_of(learner.predict(splits.test.rows, answers=0), job.task.primary[0])
            write_file(path, json.dumps(said) + "\n")
        found.append(read_json(path))
    return _outcomes([gained for gained, _ in found], [weights for _, weights in found])
