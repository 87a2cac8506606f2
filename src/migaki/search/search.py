"""A search from its recipe to what it recommends: the best settings, or the default, with what is gained and how sure."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from migaki.core.errors import Problem, RecipeError, UsageError
from migaki.core.store import remove, write_file
from migaki.core.types import Splits
from migaki.recipe import Recipe
from migaki.search.analysis import importance_of, pareto_front, plateaus_of, seed_noise
from migaki.search.display import Board
from migaki.search.display import board_for as _board_for
from migaki.search.finals import DEFAULT, Ending, ending, plan_of, ranked
from migaki.search.first import First, first_trials
from migaki.search.forecast import JUDGING, forecast_text, measured_pace
from migaki.search.job import SECONDS, Job, natural
from migaki.search.ledger import Entry
from migaki.search.processes import prepare_workers, run_workers
from migaki.search.pruning import PRUNERS, SHARES, pruner_of
from migaki.search.samplers import SAMPLERS
from migaki.search.shared import Shared, check_same_rows, shape_of
from migaki.search.space import Space
from migaki.search.worker import Worker
from migaki.training.monitor import Monitor

__all__ = ["Found", "search"]

_TRIALS, _MOST_TRIALS = 20, 200
_CANDIDATES = 3
_PATIENCE = 2
_BATCH, _LOOKS = "training.batch_size", "training.evaluations_per_epoch"


@dataclass(frozen=True)
class Found:
    """What came out; everything of it is in `search.json` of the folder."""

    folder: Path
    facts: dict[str, Any]

    @property
    def recipe(self) -> Path:
        """The plain recipe that is recommended."""
        return Path(self.facts["recipe"])


def search(
    space: Space,
    runs: str | Path = "runs",
    *,
    trials: int | None = None,
    minutes: float | None = None,
    sampler: str = "tpe",
    pruner: str | None = None,
    workers: int = 1,
    seeds: int = 3,
    second: Literal["parameters", "latency"] | None = None,
    storage: str | None = None,
    board_for: Any = _board_for,
) -> Found:
    """Try settings on the validation rows, train the best of them and the default anew with several seeds, and say by the
    test rows, which are opened once, whether anything was gained.

    The same search goes on where it was; more trials join those that are there.

    Args:
        space: as `read_space` reads it; without ranges the space of the method is searched.
        trials: at most; None: 20, for a grid all of it, with minutes as many as there is time for.
        minutes: that all of it may take from now on; None: as long as it takes.
        sampler: tpe, gp, random or grid.
        pruner: none, halving, hyperband, median or patience; None: halving where there is something to halve.
        workers: processes.
        seeds: trainings of each candidate and of the default in the end.
        second: what is wanted small beside the figure.
        storage: URL of a database that several machines share; None: a journal on disk.
        board_for: makes what shows the progress.
    Raises:
        UsageError: the space, a value in it, the data or the model cannot be used; nothing was started.
    """
    began_s, runs = time.time(), Path(runs)
    _check_names(sampler, pruner, second)
    if workers > 1:
        prepare_workers()
    space = _with_one_split(space)
    shared = Shared(runs)
    splits = shared.splits(space.default)
    base = shared.base(space.default)
    shape = shape_of(base)
    if not space.ranges:
        space = _method_space(space, shape)
    pruner = pruner or _usual_pruner(space, sampler, second)
    if pruner == "patience":
        space = _with_training(space, "early_stopping", _PATIENCE)
    if pruner_of(pruner).halts:
        space = _with_training(space, "evaluations_per_epoch", _looks_an_epoch(space, splits))
    space.check()
    _check_values(space, shared)
    firsts = [First(s, "grid") for s in space.grid()] if sampler == "grid" else first_trials(space, shape)
    limit = _limit(space, sampler, trials, minutes, firsts)
    key = _key(
        space,
        [split.fingerprint() for split in (splits.train, splits.valid, splits.test)],
        base,
        sampler,
        pruner,
        second,
    )
    folder = runs / f"search-{key}"
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    write_file(folder / "space.yaml", space.written())
    job = Job(
        space,
        folder,
        runs,
        sampler,
        pruner,
        limit,
        firsts[:limit],
        seeds,
        _CANDIDATES,
        workers,
        whole_s=0.0,
        deadline_s=began_s + 60 * minutes if minutes else None,
        storage=storage,
        second=second,
    )
    pace = measured_pace(space.default, shared, folder)
    evaluations = job.evaluations(space.default, shared)
    job = replace(job, whole_s=pace.whole_s(space.default, len(splits.train), len(splits.valid), evaluations))
    board = board_for(job)
    _say_before(board, job, len(splits.train), len(splits.valid))
    try:
        entries = _work(job, shared, board)
    finally:
        board.close()
    found = _conclude(job, shared, entries, time.time() - began_s, len(splits.test))
    return Found(folder, found)


def _check_names(sampler: str, pruner: str | None, second: str | None) -> None:
    for value, names, option in (
        (sampler, SAMPLERS, "--sampler"),
        (pruner, PRUNERS, "--pruner"),
        (second, SECONDS, "--also"),
    ):
        if value is not None and value not in names:
            raise UsageError(f"{option} {value}: there is no such one; there are {', '.join(names)}.")
    if second and pruner not in (None, "none", "patience"):
        raise UsageError(f"--also {second} needs whole trainings, and {pruner} ends some early. Leave --pruner out.")


def _with_one_split(space: Space) -> Space:
    """Another seed of a training must not draw other splits."""
    seed = space.default.seed if space.default.data.seed is None else space.default.data.seed
    values = {**space.values, "data": {**space.values["data"], "seed": seed}}
    data = space.default.data.model_copy(update={"seed": seed})
    return replace(space, values=values, default=space.default.model_copy(update={"data": data}))


def _method_space(space: Space, shape: Any) -> Space:
    method = space.default.method
    ranges = method.space(space.default.task, shape)
    if not ranges:
        found = (
            f"{method.kind} names nothing to search, and the recipe has no ranges. Give a list or a range for a setting, for "
            "example task.max_length: [32, 64]."
        )
        raise RecipeError([Problem("method.kind", found)])
    return space.with_ranges(ranges)


def _usual_pruner(space: Space, sampler: str, second: str | None) -> str:
    """A grid is wanted whole; where there are no steps nothing can be ended early."""
    return "halving" if space.default.method.takes_steps and sampler != "grid" and not second else "none"


def _with_training(space: Space, setting: str, value: int) -> Space:
    """The setting of every training, unless the recipe says one or names values for it."""
    said = space.values.get("training", {})
    if f"training.{setting}" in space.ranges or setting in said:
        return space
    default = space.default.model_copy(update={"training": space.default.training.model_copy(update={setting: value})})
    return replace(space, values={**space.values, "training": {**said, setting: value}}, default=default)


def _looks_an_epoch(space: Space, splits: Splits) -> int:
    """Validations in an epoch, so many that trials stand on their first rung where it is meant to be and not as late as at the
    end of an epoch; but each costs at most a quarter of the steps before it. Where training stops after some validations
    without a better one, they stay as far apart as they were."""
    training = space.default.training
    if training.early_stopping or "training.early_stopping" in space.ranges:
        return training.evaluations_per_epoch
    of_epochs = space.ranges.get("training.epochs")
    epochs = max([training.epochs, *(int(end) for end in (of_epochs.ends() if of_epochs else ()))])
    affordable = len(splits.train) / (4 * JUDGING * max(1, len(splits.valid)))
    return max(training.evaluations_per_epoch, min(math.ceil(1 / SHARES[0] / epochs), int(affordable)))


def _check_values(space: Space, shared: Shared) -> None:
    """Every value that a model, the rows or the method could refuse is tried on them, before anything is trained.

    Raises:
        RecipeError: lists what no training can begin with, with its line.
    """
    import copy

    problems = []
    for path, r in space.ranges.items():
        part = path.split(".")[0]
        for value in r.ends() if part != "training" or path == "training.replay" else ():
            recipe = space.recipe({**space.defaults, path: value})
            try:
                base = shared.base(recipe)
                own = replace(base, model=copy.deepcopy(base.model)) if base else None
                if part == "data":
                    check_same_rows(shared, space.default, recipe, space.place(path))
                shared.replay(recipe)
                splits = shared.splits(recipe)
                learner = recipe.method.prepare(own, recipe.task, splits.train, recipe.seed)
                for split in (splits.train, splits.valid, splits.test):
                    learner.encode(split)
            except UsageError as error:
                reason = error.problems[0].message if isinstance(error, RecipeError) else str(error)
                problems.append(Problem(space.place(path), f"{value!r} cannot be tried: {reason}"))
    if problems:
        raise RecipeError(problems, space.source or "recipe")


def _limit(space: Space, sampler: str, trials: int | None, minutes: float | None, firsts: Sequence[First]) -> int:
    if sampler == "grid":
        size = space.size()
        assert size is not None
        return min(size, trials or size)
    if trials is None:
        return _MOST_TRIALS if minutes else _TRIALS
    return trials


def _key(space: Space, fingerprints: Sequence[str], base: Any, sampler: str, pruner: str, second: str | None) -> str:
    """Names a search by all that its trials depend on; not how many there are, so that more can join later."""
    values = space.default.resolved()
    values["data"] = fingerprints
    ranges = [[path, r.written()] for path, r in space.ranges.items()]
    parts = [values, ranges, base.fingerprint if base else "", sampler, pruner, second]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]


def _say_before(board: Board, job: Job, train: int, valid: int) -> None:
    space, default = job.space, job.space.default
    board.note(
        f"search in {job.folder}: {default.task.kind} by {default.method.kind}, {train} train and {valid} valid rows"
    )
    for path, r in space.ranges.items():
        board.note(f"  {path}: {_range_text(r.written())} (default {space.defaults[path]})")
    if _BATCH not in space.ranges:
        board.note(
            f"  {_BATCH} stays {default.training.batch_size}: rows computed at once follow from the memory, not from a search"
        )
    looks = default.training.evaluations_per_epoch
    if pruner_of(job.pruner).halts and looks > 1:
        board.note(f"  {_LOOKS} is {looks}, so that trials are halted before they have cost much")
    finals = job.seeds * (job.candidates + 1)
    board.note("forecast: " + forecast_text(job.limit, job.whole_s, job.pruner, finals, job.workers))
    if job.deadline_s is not None:
        board.note(
            f"it ends after {(job.deadline_s - time.time()) / 60:.1f} minutes, with as many trials as there is time for"
        )


def _range_text(written: Any) -> str:
    kind, value = next(iter(written.items()))
    return f"{value}" if kind == "choice" else f"{kind} {value}"


def _work(job: Job, shared: Shared, board: Board) -> list[Entry]:
    """Train everything, here or in processes of their own; the list of trials comes back."""
    ledger = job.ledger()
    if job.workers > 1:
        run_workers(job, ledger, board)
    else:
        Worker(job, shared, ledger, _Notes(board), board.update).run()
    for checkpoints in job.folder.glob("trials/*/checkpoints"):
        remove(checkpoints)  # of a process that was killed between its last two steps
    entries = ledger.entries()
    board.update(entries)
    return entries


class _Notes(Monitor):
    """Only what is said about the end; a line for each step of each trial would be too much."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def note(self, text: str) -> None:
        if text.startswith("training "):
            self._board.note(text)


# What is said in the end


def _conclude(job: Job, shared: Shared, entries: Sequence[Entry], seconds: float, n_test: int) -> dict[str, Any]:
    plan = plan_of(job, entries)
    looks = sum(int(e.facts.get("looks", 0)) for e in entries)
    end = ending(job, shared, plan, looks)
    spent = _spent_before(job.folder) + seconds
    facts = _facts(job, entries, end, spent, shared, n_test)
    write_file(job.folder / "search.json", json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
    return facts


def _spent_before(folder: Path) -> float:
    with contextlib.suppress(OSError, ValueError, KeyError):
        return float(json.loads((folder / "search.json").read_text(encoding="utf-8"))["seconds"])
    return 0.0


def _facts(
    job: Job, entries: Sequence[Entry], end: Ending, seconds: float, shared: Shared, n_test: int
) -> dict[str, Any]:
    default, space = job.space.default, job.space
    splits = shared.splits(default)
    metric, better = job.task.primary
    best = end.figures[end.candidate or DEFAULT]
    chosen = job.recipe(best["settings"]) if end.beats_default else default
    recipe = _export(job, chosen, "best.yaml" if end.beats_default else "default.yaml")
    noise = max((seed_noise(f["valid"]["seeds"]) for f in end.figures.values() if f["valid"]), default=0.0)
    base = shared.base(default)
    return {
        "task": job.task.kind,
        "model": base.reference if base else "none",
        "method": default.method.kind,
        "metric": metric,
        "better": better,
        "rows": {"train": len(splits.train), "valid": len(splits.valid), "test": n_test},
        "space": {path: r.written() for path, r in space.ranges.items()},
        "sampler": job.sampler,
        "pruner": job.pruner,
        "second": job.second,
        "trials": [_trial_facts(job, e) for e in entries],
        "best": best,
        "best_is": end.candidate or DEFAULT,
        "default": end.figures[DEFAULT],
        "gain": end.gain,
        "p_value": end.p_value,
        "beats_default": end.beats_default,
        "recipe": str(recipe),
        "finals": [{"name": name, **figures} for name, figures in end.figures.items()],
        "seeds": job.seeds,
        "looks": end.looks,
        "seed_noise": noise,
        "importance": importance_of(job, entries),
        "plateaus": [asdict(p) for p in plateaus_of(job, entries, noise)],
        "pareto": [number + 1 for number in pareto_front(job, entries)] if job.second else [],
        "order": [e.name for e in ranked(job, entries)],
        "seconds": seconds,
    }


def _trial_facts(job: Job, entry: Entry) -> dict[str, Any]:
    known = entry.facts
    return {
        "number": entry.name,
        "origin": entry.origin,
        "settings": dict(entry.settings),
        "state": entry.state,
        "value": None if entry.figure is None else natural(job.task, entry.figure),
        "loss": None if entry.figure is None else -entry.figure[1],
        "share": max(entry.figures) / entry.evaluations if entry.figures else 0.0,
        "seconds": known.get("seconds"),
        "looks": known.get("looks"),
        "parameters": known.get("parameters"),
        "latency": known.get("latency"),
        "reason": known.get("reason"),
        "folder": str(job.trial_folder(entry.number)),
    }


def _export(job: Job, recipe: Recipe, name: str) -> Path:
    """The recipe without ranges, for `migaki train`."""
    for old in ("best.yaml", "default.yaml"):
        (job.folder / old).unlink(missing_ok=True)
    write_file(job.folder / name, recipe.to_yaml())
    return job.folder / name
