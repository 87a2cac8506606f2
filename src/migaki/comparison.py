"""Which way of adapting the model is worth it: every method on the same rows, with the same budget for its settings.

The order of work keeps the test rows out of every choice: a learning rate for each method by short attempts judged on
the validation rows, then the runs, each measured once on the test rows, then the statistics over them.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from migaki.core.errors import NonFiniteError, Problem, RecipeError
from migaki.core.parts import Method, Task
from migaki.core.store import write_file
from migaki.core.types import Dataset, Splits
from migaki.data.splits import labels_of, split_off
from migaki.evaluation.comparison import ALPHA, Outcomes, difference, groups, measure
from migaki.exhibits import keep_exhibits
from migaki.methods import all_methods
from migaki.pipeline import train
from migaki.recipe import Recipe
from migaki.run import Run, base_of
from migaki.training.monitor import Monitor
from migaki.trial import Trial, attempt

if TYPE_CHECKING:
    from migaki.models.base import Base

__all__ = ["Comparison", "compare"]

_LADDER = (1 / 3, 1.0, 3.0)
"""Learning rates that are tried, as multiples of the method's usual one."""
_LADDER_SHARE = 1 / 3
"""Part of the steps of a whole run that each of them gets."""
_SMALLER = (1 / 9, 1 / 3)
"""Parts of the training rows for the learning curves, beside all of them."""
_FEWEST_ROWS = 20
_MAJORITY = "majority"
_EXAMPLES = 5


@dataclass(frozen=True)
class Comparison:
    """What came out; everything of it is in `comparison.json` of the folder."""

    folder: Path
    facts: dict[str, Any]

    @property
    def recommended(self) -> str:
        return str(self.facts["recommended"])


@dataclass
class _Entry:
    """One method while it is compared."""

    method: Method
    rate: float | None = None
    ladder: dict[float, float] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    curve: list[Trial] = field(default_factory=list)


def compare(
    recipe: Recipe,
    methods: Sequence[str] | None = None,
    runs: str | Path = "runs",
    monitor: Monitor | None = None,
    *,
    seeds: int = 3,
    minutes: float | None = None,
) -> Comparison:
    """Adapt the model in every way, measure all of them on the same test rows, and say which one to use.

    What was finished before is taken over: runs and attempts by the hash of all that they depend on, so an interrupted
    comparison goes on where it was.

    Args:
        recipe: data, model, task and training of all methods; its own method keeps its settings.
        methods: their kinds; None: those that make sense for the task.
        seeds: runs of each method whose result depends on the seed.
        minutes: what is optional (more seeds, learning curves) is left out beyond it, and said so.
    Raises:
        UsageError: a method does not exist or does not fit the task; recipe, data or model cannot be used.
    """
    monitor, runs = monitor or Monitor(), Path(runs)
    entries = _entries(recipe, methods)
    recipe = _with(recipe, data=recipe.data.model_copy(update={"seed": _data_seed(recipe)}))
    splits = recipe.data.load(recipe.task.content_kind, recipe.seed)
    base = base_of(recipe.model, recipe.task.base_role, runs)
    entries = _usable(entries, recipe.task, base, splits.train, bool(methods), monitor)
    folder = runs / f"compare-{_key(recipe, splits, base.fingerprint)}"
    (folder / "attempts").mkdir(parents=True, exist_ok=True)
    work = _Work(recipe, splits, base, runs, folder, monitor, time.monotonic(), minutes)
    for name, entry in entries.items():
        work.find_rate(name, entry)
    for name, entry in entries.items():
        work.run(name, entry, 0)
    for name, entry in entries.items():
        work.draw_curve(name, entry)
    for number in range(1, seeds):
        for name, entry in entries.items():
            if entry.method.varies_with_seed and work.has_time(f"seed {number} of {name}", entry):
                work.run(name, entry, number)
    facts = _facts(work, entries)
    shown = (row["text"] for found in facts["disagreements"].values() for row in found["examples"])
    keep_exhibits(folder, shown, recipe.task.content_kind)
    write_file(folder / "comparison.json", json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
    return Comparison(folder, facts)


def _data_seed(recipe: Recipe) -> int:
    """Another seed of a run must not draw other splits here."""
    return recipe.seed if recipe.data.seed is None else recipe.data.seed


def _with(recipe: Recipe, **parts: Any) -> Recipe:
    return recipe.model_copy(update=parts)


def _entries(recipe: Recipe, names: Sequence[str] | None) -> dict[str, _Entry]:
    kinds = {kind.model_fields["kind"].default: kind for kind in all_methods()}
    chosen = list(dict.fromkeys(names or recipe.task.compared))
    unknown = [name for name in chosen if name not in kinds]
    if unknown:
        found = f"there is no method {unknown[0]!r}; there are {', '.join(sorted(kinds))}."
        raise RecipeError([Problem("--methods", found)])
    floor = recipe.task.floor
    if recipe.task.content_kind != "conversation" and floor not in chosen:
        chosen.append(floor)
    return {
        name: _Entry(recipe.method if recipe.method.kind == name else kinds[name].model_validate({"kind": name}))
        for name in chosen
    }


def _usable(
    entries: dict[str, _Entry], task: Task, base: Base, train: Dataset, named: bool, monitor: Monitor
) -> dict[str, _Entry]:
    """Without those that this model, or these labels, cannot be used with. Raises RecipeError where they were `named`."""
    refused = {}
    for name, entry in entries.items():
        if found := entry.method.misfit(task) or entry.method.refused(base, task, train):
            refused[name] = found
    if refused and named:
        raise RecipeError([Problem("--methods", found) for found in refused.values()])
    for name, found in refused.items():
        monitor.note(f"{name} is left out: {found}")
    return {name: entry for name, entry in entries.items() if name not in refused}


def _key(recipe: Recipe, splits: Splits, fingerprint: str) -> str:
    """Names what is compared: rows, model, task and training; not the methods, so that more of them can join later."""
    values = {k: v for k, v in recipe.resolved().items() if k in ("task", "training", "seed")}
    values["training"] = {k: v for k, v in values["training"].items() if k != "learning_rate"}
    parts = [fingerprint, *(split.fingerprint() for split in (splits.train, splits.valid, splits.test))]
    return hashlib.sha256(json.dumps([values, parts], sort_keys=True).encode()).hexdigest()[:12]


@dataclass
class _Work:
    """What all steps of a comparison need."""

    recipe: Recipe
    splits: Splits
    base: Base
    runs: Path
    folder: Path
    monitor: Monitor
    began: float
    minutes: float | None
    left_out: list[str] = field(default_factory=list)

    def has_time(self, what: str, entry: _Entry) -> bool:
        """Whether as much time is left as the method's first run took."""
        if self.minutes is None:
            return True
        needed = sum(run.results["cost"]["train_seconds"] for run in entry.runs[:1])
        if time.monotonic() - self.began + needed <= 60 * self.minutes:
            return True
        self.left_out.append(what)
        self.monitor.note(f"left out, because the {self.minutes:g} minutes are over: {what}")
        return False

    def recipe_of(self, entry: _Entry, seed: int, rate: float | None, **training: Any) -> Recipe:
        changed = self.recipe.training.model_copy(update={"learning_rate": rate, **training})
        return _with(self.recipe, method=entry.method, seed=seed, training=changed)

    def attempt(self, recipe: Recipe, rows: Dataset) -> Trial:
        key = hashlib.sha256(f"{recipe.to_yaml()}\x1f{rows.fingerprint()}".encode()).hexdigest()[:16]
        base = self.base if recipe.method.uses_base else None
        return attempt(recipe, rows, self.splits.valid, base, self.folder / "attempts" / key, self.monitor)

    def find_rate(self, name: str, entry: _Entry) -> None:
        """The learning rate of a third, of once or of three times the usual one that gives the best validation figure
        after a third of the steps."""
        if not entry.method.takes_steps:
            return
        usual = entry.method.default_learning_rate
        if self.recipe.training.learning_rate and entry.method is self.recipe.method:
            usual = self.recipe.training.learning_rate
        training = self.recipe.training
        whole = math.ceil(len(self.splits.train) / training.batch_size) * training.epochs
        steps = max(1, math.ceil(min(whole, training.max_steps or whole) * _LADDER_SHARE))
        metric, better = self.recipe.task.primary
        sign = 1 if better == "max" else -1
        found: dict[float, tuple[float, float]] = {}
        for factor in _LADDER:
            rate = float(f"{usual * factor:.3g}")
            self.monitor.note(f"{name}: trying rate {rate:g} for {steps} steps")
            recipe = self.recipe_of(entry, self.recipe.seed, rate, max_steps=steps, early_stopping=None)
            try:
                scores = self.attempt(recipe, self.splits.train).reached
            except NonFiniteError as error:
                self.monitor.note(f"{name}: rate {rate:g} is too high: {error}")
                continue
            found[rate] = sign * scores[metric], -scores["loss"]
            entry.ladder[rate] = scores[metric]
        if not found:
            raise RecipeError(
                [Problem("training.learning_rate", f"{name} diverges at every rate of its ladder; lower it.")]
            )
        entry.rate = max(found, key=lambda rate: found[rate])
        self.monitor.note(f"{name}: rate {entry.rate:g}")

    def run(self, name: str, entry: _Entry, number: int) -> None:
        """An ordinary run, taken over where it was finished before."""
        recipe = self.recipe_of(entry, self.recipe.seed + number, entry.rate)
        self.monitor.note(f"{name}: seed {recipe.seed}")
        entry.runs.append(train(recipe, self.runs, self.monitor, reuse=True))

    def draw_curve(self, name: str, entry: _Entry) -> None:
        """Validation figures with fewer rows."""
        if not entry.method.learns_from_rows:
            return
        for share in _SMALLER:
            n = round(share * len(self.splits.train))
            if n < _FEWEST_ROWS or not self.has_time(f"{name} with {n} rows", entry):
                continue
            rows = _fewer(self.splits.train, share, self.recipe.seed)
            self.monitor.note(f"{name}: {len(rows)} rows")
            entry.curve.append(self.attempt(self.recipe_of(entry, self.recipe.seed, entry.rate), rows))


def _fewer(train: Dataset, share: float, seed: int) -> Dataset:
    """A part of the rows with the same labels, at least one row of each."""
    _, taken = split_off(train.rows, share, seed, "curve")
    there = {label for row in taken for label in labels_of(row)}
    missing = []
    for row in train.rows:
        if labels_of(row) - there - {None}:
            missing.append(row)
            there |= labels_of(row)
    return Dataset("train", (*taken, *missing))


# What the figures say


def _facts(work: _Work, entries: Mapping[str, _Entry]) -> dict[str, Any]:
    recipe = work.recipe
    metric, better = recipe.task.primary
    rows = {name: [_lines(run) for run in entry.runs] for name, entry in entries.items()}
    outcomes = {name: _outcomes(lines, metric) for name, lines in rows.items()}
    known = recipe.task.content_kind != "conversation"
    majority = _majority(work.splits) if recipe.task.one_label else None
    found_groups = groups(outcomes, better, recipe.seed)
    methods = {
        name: _method_facts(entry, outcomes[name], metric, _group_of(name, found_groups), recipe.seed)
        for name, entry in entries.items()
    }
    floors = {name: outcomes[name] for name in (recipe.task.floor,) if name in outcomes}
    if majority:
        floors[_MAJORITY] = majority
        methods[_MAJORITY] = _majority_facts(majority, work.splits, metric, recipe.seed)
    advice = _recommend(outcomes, floors, found_groups, methods, better, recipe.seed)
    curves = _curves(work, entries, metric)
    return {
        "task": recipe.task.kind,
        "model": work.base.reference,
        "metric": metric,
        "better": better,
        "rows": {"train": len(work.splits.train), "valid": len(work.splits.valid), "test": len(work.splits.test)},
        "labels": len({row.content.stratum() for row in work.splits.train.rows}) if majority else 0,
        "answers": next(iter(entries.values())).runs[0].results["details"].get("answers"),
        "methods": methods,
        "groups": found_groups,
        "best_group": found_groups[0],
        **advice,
        "flips_when": _flips(advice["recommended"], curves, methods, better),
        "curves": curves,
        "disagreements": _disagreements(advice["recommended"], rows) if known else {},
        "left_out": work.left_out,
        "seconds": time.monotonic() - work.began,
    }


def _lines(run: Run) -> list[dict[str, Any]]:
    text = (run.path / "predictions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _outcomes(seeds: Sequence[Sequence[Mapping[str, Any]]], metric: str) -> Outcomes:
    if metric == "loss":
        return Outcomes.of([[row["loss"] for row in rows] for rows in seeds], [row["targets"] for row in seeds[0]])
    if all("part" in row for rows in seeds for row in rows):
        above, below = ([[row["part"][i] for row in rows] for rows in seeds] for i in (0, 1))
        return Outcomes.of(above, below)
    return Outcomes.of([[row["output"] == row["target"] for row in rows] for rows in seeds], [1.0 for _ in seeds[0]])


def _majority(splits: Splits) -> Outcomes:
    label = _most_frequent(splits)
    return Outcomes.of([[row.content.label == label for row in splits.test.rows]], [1.0] * len(splits.test))


def _most_frequent(splits: Splits) -> str:
    counts = Counter(str(row.content.label) for row in splits.train.rows)
    return max(sorted(counts), key=lambda label: counts[label])


def _group_of(name: str, found: Sequence[Sequence[str]]) -> int:
    return 1 + next(i for i, members in enumerate(found) if name in members)


def _method_facts(entry: _Entry, outcomes: Outcomes, metric: str, group: int, seed: int) -> dict[str, Any]:
    results = [run.results for run in entry.runs]
    costs = [result["cost"] for result in results]
    metrics = {name: _over_seeds([result["metrics"][name] for result in results]) for name in results[0]["metrics"]}
    metrics[metric] = measure(outcomes, seed).as_json()
    return {
        "metrics": metrics,
        "seeds": outcomes.seeds,
        "group": group,
        "seconds": median(cost["train_seconds"] for cost in costs),
        "peak_bytes": max(cost["peak_bytes"] for cost in costs),
        "trainable_parameters": costs[0]["trainable_parameters"],
        "disk_bytes": _folder_bytes(entry.runs[0].path / "model"),
        "latency_p50_s": median(cost["latency_p50_s"] for cost in costs),
        "latency_p95_s": median(cost["latency_p95_s"] for cost in costs),
        "forgetting": results[0].get("generality"),
        "new_knowledge": entry.method.new_knowledge,
        "learning_rate": entry.rate,
        "ladder": {f"{rate:g}": score for rate, score in entry.ladder.items()},
        "runs": [run.id for run in entry.runs],
    }


def _over_seeds(measures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean, and the far ends of the intervals of all seeds: too wide, never too narrow."""
    return {
        "value": mean(m["value"] for m in measures),
        "low": min(m["low"] for m in measures),
        "high": max(m["high"] for m in measures),
        "n": measures[0]["n"],
    }


def _majority_facts(majority: Outcomes, splits: Splits, metric: str, seed: int) -> dict[str, Any]:
    return {
        "metrics": {metric: measure(majority, seed).as_json()},
        "label": _most_frequent(splits),
        "seconds": 0.0,
        "trainable_parameters": 0,
    }


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _recommend(
    outcomes: Mapping[str, Outcomes],
    floors: Mapping[str, Outcomes],
    found_groups: Sequence[Sequence[str]],
    methods: Mapping[str, Mapping[str, Any]],
    better: str,
    seed: int,
) -> dict[str, Any]:
    """The cheapest method of the best group that beats every floor beyond chance; where none does, the cheapest floor."""
    best = found_groups[0]
    sign = 1 if better == "max" else -1

    def beats(name: str) -> bool:
        gaps = (difference(outcomes[name], floor, seed) for other, floor in floors.items() if other != name)
        return all(sign * gap.value > 0 and p < ALPHA for gap, p in gaps)

    def cost(name: str) -> tuple[float, float]:
        return methods[name]["seconds"], methods[name].get("latency_p50_s", 0.0)

    below = [name for name in outcomes if name not in floors and not beats(name)]
    worth = [name for name in best if name not in floors and name not in below]
    alone = len(best) == 1
    if worth and not any(floor in best for floor in floors):
        name = min(worth, key=cost)
        passed_over = any(other in below and cost(other) < cost(name) for other in best)
        why = "alone_best" if alone else "cheapest_above_floor" if passed_over else "cheapest_of_best"
    else:
        # A floor is among the best: nothing that costs more is worth it.
        name = min((floor for floor in floors if floor in best), key=cost, default=min(best, key=cost))
        why = "floor"
    return {
        "recommended": name,
        "why": why,
        "reason": _reason(name, why, best, methods),
        "not_above_floor": below,
    }


def _reason(name: str, why: str, best: Sequence[str], methods: Mapping[str, Mapping[str, Any]]) -> str:
    others = [other for other in best if other != name]
    if why == "alone_best":
        text = f"{name} is better than every other method beyond chance"
    elif why == "floor":
        text = f"nothing that costs more is better than {name} beyond chance"
    else:
        text = f"{name} is the cheapest of those that cannot be told apart from the best ({', '.join(best)})"
        if why == "cheapest_above_floor":
            text += " and that are better than every floor beyond chance"
    slowest = max((methods[other]["seconds"] for other in others), default=0.0)
    if slowest > 2 * methods[name]["seconds"] and why == "cheapest_of_best":
        text += f": {methods[name]['seconds']:.0f} s of training instead of up to {slowest:.0f} s"
    forgotten = methods[name].get("forgetting") or {}
    if forgotten.get("forgotten"):
        text += "; but it forgot general ability, see its report"
    return text + "."


def _curves(work: _Work, entries: Mapping[str, _Entry], metric: str) -> dict[str, list[dict[str, Any]]]:
    """For each method the validation figure by number of train rows, with its standard error."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for name, entry in entries.items():
        points: list[dict[str, Any]] = [
            {"rows": trial.rows, "value": trial.scores[metric], "error": _standard_error(trial)}
            for trial in entry.curve
        ]
        whole = entry.runs[0].results["valid"]
        points.append({"rows": len(work.splits.train), "value": whole[metric], "error": None})
        curves[name] = points
    return curves


def _standard_error(trial: Trial) -> float:
    """Of a ratio of sums, by linearisation (Cochran 1977, Sampling Techniques, 2.11)."""
    n, total = len(trial.gained), sum(trial.weights) or 1.0
    ratio = sum(trial.gained) / total
    squares = sum((g - ratio * w) ** 2 for g, w in zip(trial.gained, trial.weights, strict=True))
    return math.sqrt(squares * n / max(n - 1, 1)) / total


def _flips(
    recommended: str, curves: Mapping[str, Sequence[Mapping[str, Any]]], methods: Mapping[str, Any], better: str
) -> list[dict[str, Any]]:
    """With how few rows another method would have been the choice: the cheapest within one standard error of the best
    on the validation rows (the rule of Breiman et al. 1984, Classification and Regression Trees, 3.4.3)."""
    sign = 1 if better == "max" else -1
    flips = []
    sizes = sorted({point["rows"] for points in curves.values() for point in points if point["error"] is not None})
    for size in reversed(sizes):
        there = {name: p for name, points in curves.items() for p in points if p["rows"] == size}
        if recommended not in there or len(there) < 2:
            continue
        top = max(there, key=lambda name: sign * there[name]["value"])
        close = [
            name
            for name in there
            if sign * there[name]["value"] >= sign * there[top]["value"] - (there[top]["error"] or 0.0)
        ]
        choice = min(close, key=lambda name: methods[name]["seconds"])
        if choice != recommended:
            flips.append({"rows": size, "method": choice, "value": there[choice]["value"]})
    return flips


def _disagreements(recommended: str, rows: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> dict[str, Any]:
    """Test rows (of the first seed) on which the recommended method and another one are not both right or both wrong."""
    found = {}
    for name, seeds in rows.items():
        if name == recommended:
            continue
        pairs = [
            (a, b, a["output"] == a["target"], b["output"] == b["target"])
            for a, b in zip(rows[recommended][0], seeds[0], strict=True)
        ]
        ours = [(a, b) for a, b, a_right, b_right in pairs if a_right and not b_right]
        theirs = [(a, b) for a, b, a_right, b_right in pairs if b_right and not a_right]
        found[name] = {
            "only_recommended": len(ours),
            "only_other": len(theirs),
            "examples": [
                {
                    "place": f"{a['source']}:{a['line']}",
                    "text": a["text"] if "text_pair" not in a else f"{a['text']}\n{a['text_pair']}",
                    "target": a["target"],
                    "recommended": a["output"],
                    "other": b["output"],
                }
                for a, b in (*ours[:_EXAMPLES], *theirs[:_EXAMPLES])
            ],
        }
    return found
