"""One attempt that is judged on the validation rows alone: what a comparison or a search chooses by."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from migaki.core.errors import DamagedError
from migaki.core.store import RunFolder, read_json, remove, sweep, write_file
from migaki.core.types import Dataset, Prediction
from migaki.recipe import Recipe
from migaki.training.interrupts import Interrupts
from migaki.training.monitor import Monitor

if TYPE_CHECKING:
    from migaki.models.base import Base
    from migaki.training.loop import Judge

__all__ = ["Trial", "attempt", "outcomes_of"]

_RESULT = "trial.json"


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


def outcomes_of(predictions: Sequence[Prediction], metric: str) -> tuple[list[float], list[float]]:
    """The part of each row in the metric, as sum(first) / sum(second): losses and targets, hits and ones, or what
    the task says."""
    parts = [p.part for p in predictions if p.part is not None]
    if metric != "loss" and len(parts) == len(predictions):
        return [above for above, _ in parts], [below for _, below in parts]
    if metric == "loss":
        return [float(p.loss or 0.0) for p in predictions], [float(p.targets) for p in predictions]
    return [float(p.output == p.target) for p in predictions], [1.0] * len(predictions)


def _reached(folder: Path, judge: Judge) -> dict[str, float]:
    """The best figures in the log of an attempt, the start's left out; of equal ones those with the smaller loss."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    after = [line["metrics"] for line in lines if line["event"] == "evaluation" and line["step"] > 0]
    sign = 1 if judge.better == "max" else -1
    return max(after, key=lambda scores: (sign * scores[judge.metric], -scores["loss"]), default={})


def attempt(recipe: Recipe, train: Dataset, valid: Dataset, base: Base | None, folder: Path, monitor: Monitor) -> Trial:
    """Train and judge; the test split is not even there.

    A finished attempt in `folder` is taken as it is, an interrupted one is gone on with. Its weights are not kept.

    Args:
        base: weights as they were loaded; they are copied, never changed.
        folder: of this attempt alone.
    Raises:
        RunError: the attempt failed, for example by a loss that is no number.
        StoppedError: a signal came; what was done is kept.
    """
    from migaki.training.loop import Judge, fit
    from migaki.training.precision import measured_precision

    result = folder / _RESULT
    if result.is_file():
        try:
            return Trial(**read_json(result))
        except (DamagedError, TypeError):
            remove(folder)  # of an older layout, or cut off
    folder.mkdir(parents=True, exist_ok=True)
    run = RunFolder(folder)
    run.lock()
    try:
        sweep(folder)
        learner = recipe.method.prepare(
            replace(base, model=copy.deepcopy(base.model)) if base else None, recipe.task, train, recipe.seed
        )
        examples = learner.encode(train)
        if base:
            learner.compute_in(measured_precision(base.model, base.model.device, recipe.training.precision).torch_dtype)
        metric, better = recipe.task.primary
        judge = Judge(lambda predictions: recipe.task.scores(predictions, learner.labels), metric, better)
        with Interrupts() as interrupts:
            history = fit(
                learner,
                recipe.training,
                examples,
                valid.rows,
                judge,
                run,
                learning_rate=recipe.learning_rate,
                seed=recipe.seed,
                monitor=monitor,
                interrupts=interrupts,
            )
            recipe.task.decide(learner, valid.rows, interrupts.check)
            predictions = learner.predict(valid.rows, answers=0, watch=interrupts.check)
        if history.start:
            history.start.remove()
        gained, weights = outcomes_of(predictions, metric)
        reached = _reached(folder, judge) or history.best_scores
        trial = Trial(history.best_scores, reached, gained, weights, len(train), history.steps, history.seconds)
        write_file(result, json.dumps(asdict(trial)) + "\n")
        if (folder / "checkpoints").is_dir():
            remove(folder / "checkpoints")
    finally:
        run.unlock()
    return trial
