"""One attempt that is judged on the validation rows alone: what a comparison or a search chooses by."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from migaki.core.errors import DamagedError
from migaki.core.parts import Learner
from migaki.core.store import RunFolder, commit, read_json, remove, sweep, write_file
from migaki.core.types import Dataset, Prediction
from migaki.data.workers import workers
from migaki.recipe import Recipe
from migaki.run import answer_seconds, judge_of
from migaki.training.interrupts import Interrupts
from migaki.training.monitor import Monitor

if TYPE_CHECKING:
    from migaki.models.base import Base
    from migaki.training.loop import History, Judge

__all__ = ["Trial", "attempt", "learned", "looks", "outcomes_of", "result_of"]

_RESULT, _KEPT = "trial.json", "best"

GoesOn = Callable[[int, Mapping[str, float]], bool]
"""From the number of evaluations after the first step, and the best figures in them, to whether training goes on."""


@dataclass(frozen=True)
class Trial:
    """How an attempt ended."""

    scores: dict[str, float]
    """The best validation figures."""
    reached: dict[str, float]
    """The best ones after the first step: where training never beats the start, `scores` are those of the start."""
    gained: list[float]
    """What was gained on each validation row: see `outcomes_of`."""
    weights: list[float]
    rows: int
    """Train rows."""
    steps: int
    seconds: float
    evaluations: int = 0
    """How often the validation rows were looked at."""
    trained: int = 0
    """Parameters that are trained."""
    answer_s: float | None = None
    """Median time from a row to its answer; None where it was not asked for."""
    complete: bool = True
    """False where it was paused: then `scores` are those reached so far, and nothing is known of single rows."""


def outcomes_of(predictions: Sequence[Prediction], metric: str) -> tuple[list[float], list[float]]:
    """The part of each row in the metric, as sum(first) / sum(second): losses and targets, hits and ones, or what
    the task says."""
    parts = [p.part for p in predictions if p.part is not None]
    if metric != "loss" and len(parts) == len(predictions):
        return [above for above, _ in parts], [below for _, below in parts]
    if metric == "loss":
        return [float(p.loss or 0.0) for p in predictions], [float(p.targets) for p in predictions]
    return [float(p.output == p.target) for p in predictions], [1.0] * len(predictions)


def looks(folder: Path) -> int:
    """How often the validation rows were judged in an attempt, the start included."""
    return sum(line["event"] == "evaluation" for line in _history(folder))


def _history(folder: Path) -> list[dict[str, Any]]:
    path = folder / "history.jsonl"
    if not path.is_file():
        return []
    # A process that was killed may leave a line cut off; what stands behind the checkpoint is done again anyway.
    whole = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in whole]


def _evaluations(folder: Path) -> list[dict[str, Any]]:
    """The evaluations after the first step, in order."""
    return [line for line in _history(folder) if line["event"] == "evaluation" and line["step"] > 0]


def _reached(folder: Path, judge: Judge) -> dict[str, float]:
    """The best figures in the log of an attempt, the start's left out; of equal ones those with the smaller loss."""
    sign = 1 if judge.better == "max" else -1
    after = [line["metrics"] for line in _evaluations(folder)]
    return max(after, key=lambda scores: (sign * scores[judge.metric], -scores["loss"]), default={})


class _PausedError(Exception):
    """Training was asked not to go on; its checkpoint is there."""


class _Watch(Monitor):
    """Passes on what it is told, and asks after each evaluation but the last whether training goes on."""

    def __init__(self, inner: Monitor, folder: Path, judge: Judge, goes_on: GoesOn | None) -> None:
        self._inner, self._folder, self._judge, self._goes_on = inner, folder, judge, goes_on
        self._total = 0
        self.paused = False

    def note(self, text: str) -> None:
        self._inner.note(text)

    def start(self, total_steps: int, done: int) -> None:
        self._total = total_steps
        self._inner.start(total_steps, done)
        # A checkpoint at which it was paused, or killed before it was: the question has not been answered yet.
        if 0 < done < total_steps and any(line["step"] == done for line in _evaluations(self._folder)):
            self._ask()
        if self.paused:
            raise _PausedError

    def step(self, facts: Mapping[str, Any]) -> None:
        self._inner.step(facts)

    def evaluation(self, facts: Mapping[str, Any]) -> None:
        self._inner.evaluation(facts)
        if 0 < facts["step"] < self._total:
            self._ask()

    def stop(self) -> None:
        self._inner.stop()

    def _ask(self) -> None:
        if self._goes_on is not None:
            number = len(_evaluations(self._folder))
            self.paused = not self._goes_on(number, _reached(self._folder, self._judge))


class _Pauses(Interrupts):
    """Signals, and the answer that training does not go on."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def check(self, *_: object) -> None:
        super().check()
        # The loop asks this when an evaluation and its checkpoint are behind it.
        if self._watch.paused:
            raise _PausedError


def result_of(folder: Path) -> Trial | None:
    """What a finished attempt left; None where there is none, or one of an older layout or cut off."""
    try:
        return Trial(**read_json(folder / _RESULT))
    except (DamagedError, TypeError):
        return None


def _prepared(recipe: Recipe, train: Dataset, base: Base | None) -> Learner:
    from migaki.training.precision import measured_precision

    own = replace(base, model=copy.deepcopy(base.model)) if base else None
    learner = recipe.method.prepare(own, recipe.task, train, recipe.seed)
    if base:
        learner.compute_in(measured_precision(base.model, base.model.device, recipe.training.precision).torch_dtype)
    return learner


def attempt(
    recipe: Recipe,
    train: Dataset,
    valid: Dataset,
    base: Base | None,
    folder: Path | RunFolder,
    monitor: Monitor,
    *,
    replay: Dataset | None = None,
    goes_on: GoesOn | None = None,
    start: dict[str, float] | None = None,
    keep: bool = False,
    timed: bool = False,
) -> Trial:
    """Train and judge; the test split is not even there.

    A finished attempt in `folder` is taken as it is, an interrupted or paused one is gone on with.

    Args:
        base: weights as they were loaded; they are copied, never changed.
        folder: of this attempt alone; one that is handed over as a locked run stays locked.
        replay: general rows that are trained on between those of the task.
        goes_on: asked after each evaluation but the last one; where it says no, the attempt is paused.
        start: figures of the untrained learner where they are known; where it is empty, they are put into it.
        keep: keep the best weights for `learned`; else they are not kept.
        timed: measure how long an answer takes as well.
    Raises:
        RunError: the attempt failed, for example by a loss that is no number.
        StoppedError: a signal came; what was done is kept.
    """
    run = folder if isinstance(folder, RunFolder) else RunFolder(folder)
    if finished := result_of(run.path):
        return finished
    if (run.path / _RESULT).is_file():
        (run.path / _RESULT).unlink()
    run.path.mkdir(parents=True, exist_ok=True)
    if run is not folder:
        run.lock()
    try:
        sweep(run.path)
        with workers(recipe.training.workers):
            return _attempt(recipe, train, valid, base, run, monitor, replay, goes_on, start, keep, timed)
    finally:
        if run is not folder:
            run.unlock()


def _attempt(
    recipe: Recipe,
    train: Dataset,
    valid: Dataset,
    base: Base | None,
    run: RunFolder,
    monitor: Monitor,
    replay: Dataset | None,
    goes_on: GoesOn | None,
    start: dict[str, float] | None,
    keep: bool,
    timed: bool,
) -> Trial:
    from migaki.training.loop import fit
    from migaki.training.tokens import joined

    learner = _prepared(recipe, train, base)
    # The validation rows are tokenised once here, and not at each evaluation.
    examples, _ = learner.encode(train), learner.encode(valid)
    judge = judge_of(recipe, learner)
    watch = _Watch(monitor, run.path, judge, goes_on)
    with _Pauses(watch) as interrupts:
        try:
            history = fit(
                learner,
                recipe.training,
                joined(examples, learner.encode(replay)) if replay else examples,
                valid.rows,
                judge,
                run,
                learning_rate=recipe.learning_rate,
                seed=recipe.seed,
                monitor=watch,
                interrupts=interrupts,
                start_scores=start,
            )
        except _PausedError:
            return _paused(run, judge, len(train), learner.parameter_counts()[0])
        scores, reached = history.best_scores, _reached(run.path, judge) or history.best_scores
        if recipe.training.interpolate is not None and history.start:
            scores = reached = _interpolated(recipe, learner, history, judge, valid, interrupts)
        recipe.task.decide(learner, valid.rows, interrupts.check)
        predictions = learner.predict(valid.rows, answers=0, watch=interrupts.check)
        answer_s = answer_seconds(learner, recipe.task, valid.rows, interrupts.check) if timed else []
    if history.start:
        history.start.remove()
    gained, weights = outcomes_of(predictions, recipe.task.primary[0])
    trial = Trial(
        scores,
        reached,
        gained,
        weights,
        len(train),
        history.steps,
        history.seconds,
        looks(run.path) or 1,
        learner.parameter_counts()[0],
        median(answer_s) if answer_s else None,
    )
    if keep:
        _keep(learner, run.path)
    write_file(run.path / _RESULT, json.dumps(asdict(trial)) + "\n")
    if (run.path / "checkpoints").is_dir():
        remove(run.path / "checkpoints")
    return trial


def _interpolated(
    recipe: Recipe, learner: Learner, history: History, judge: Judge, valid: Dataset, interrupts: Interrupts
) -> dict[str, float]:
    """Leave the learner where the recipe wants it between base and tuned; the figures there."""
    from migaki.training.interpolation import keep_interpolated

    assert recipe.training.interpolate is not None
    assert history.start is not None
    found = keep_interpolated(learner, history.start, recipe.training.interpolate, judge, valid.rows, interrupts.check)
    kept: dict[str, float] = next(point["scores"] for point in found["curve"] if point["alpha"] == found["kept"])
    return kept


def _paused(run: RunFolder, judge: Judge, rows: int, trained: int) -> Trial:
    """How far it came; of its checkpoints the newest and the best are enough to go on."""
    from migaki.training.checkpoint import START_FILE, checkpoint_folders

    (run.path / START_FILE).unlink(missing_ok=True)  # can be made again from the seed
    lines, judged = _history(run.path), _evaluations(run.path)
    best = max((line["step"] for line in judged if line["best"]), default=0)
    for folder in checkpoint_folders(run.path / "checkpoints")[1:]:
        if int(folder.name.removeprefix("step-")) != best:
            remove(folder)
    scores = _reached(run.path, judge)
    seconds = sum(line["seconds"] for line in lines if "seconds" in line)
    return Trial(scores, scores, [], [], rows, judged[-1]["step"], seconds, looks(run.path), trained, complete=False)


def _keep(learner: Learner, folder: Path) -> None:
    """The weights that were trained, for `learned`; a method without steps learns again in a moment."""
    from safetensors.torch import save_file

    from migaki.training.checkpoint import WEIGHTS_FILE

    parameters = {name: p for group in learner.parameter_groups() for name, p in group.named}
    if not parameters or (folder / _KEPT).exists():
        return
    with commit(folder / _KEPT) as temporary:
        save_file({name: p.detach().contiguous() for name, p in parameters.items()}, temporary / WEIGHTS_FILE)


def learned(recipe: Recipe, train: Dataset, valid: Dataset, base: Base | None, folder: Path) -> Learner:
    """The learner with which a kept attempt ended.

    Raises:
        DamagedError: its weights are missing or changed.
    """
    from migaki.training.checkpoint import load_weights

    learner = _prepared(recipe, train, base)
    examples, _ = learner.encode(train), learner.encode(valid)
    learner.settle(examples, valid.rows, 0, lambda _: None)
    if parameters := {name: p for group in learner.parameter_groups() for name, p in group.named}:
        load_weights(folder / _KEPT, parameters)
    learner.evaluation_mode()
    recipe.task.decide(learner, valid.rows)
    return learner
