"""A learning-rate range test: a few steps at rates that rise without end, and where the loss stops falling.

Source: Smith 2015, arXiv:1506.01186, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migaki.core.errors import Problem, RecipeError
from migaki.recipe import Recipe
from migaki.search.shared import Shared

if TYPE_CHECKING:
    import torch

    from migaki.core.parts import Example, Learner

__all__ = ["RangeTest", "range_test", "smoothed", "suggested"]

_LOW, _HIGH = 1e-3, 1e3
"""Of the method's usual rate: where the test begins and at most ends."""
_STEPS = 120
_FEWEST = 10
_SMOOTHING = 0.9
_BELOW_LEAST = 4.0
"""Of the rate at which the loss is least: in a sweep of so few steps the harm of a rate shows late, and what a rate needs to
be stable for a whole training is less than what it survives for some steps."""


@dataclass(frozen=True)
class RangeTest:
    """What was seen, and what to try."""

    suggestion: float
    """A rate to start from; right within a factor of about 3."""
    least: float
    """The rate at which the smoothed change of the loss was least."""
    diverges: float | None
    """The rate at which it was above that of the untrained model again; None where it never was."""
    rates: list[float]
    changes: list[float]
    """Mean loss of each step's rows before the step, less what the untrained model's is on the same rows."""
    smoothed: list[float]
    usual: float
    """What the recipe, or else the method, takes."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def range_test(
    recipe: Recipe, runs: str | Path = "runs", note: Callable[[str], None] = lambda _: None, steps: int = _STEPS
) -> RangeTest:
    """Train some steps by the recipe, each at a higher rate than the one before, on train rows alone. Nothing is kept.

    Raises:
        RecipeError: the method takes no steps, so there is no rate to find.
        UsageError: recipe, data or model cannot be used.
    """
    if not recipe.method.takes_steps:
        found = f"{recipe.method.kind} takes no steps, so it has no learning rate."
        raise RecipeError([Problem("method.kind", found)])
    from migaki.training.precision import measured_precision

    shared = Shared(Path(runs))
    splits, base = shared.splits(recipe), shared.base(recipe)
    learner = recipe.method.prepare(base, recipe.task, splits.train, recipe.seed)
    if base:
        learner.compute_in(measured_precision(base.model, base.model.device, recipe.training.precision).torch_dtype)
    examples = learner.encode(splits.train)
    passes = -(-steps * recipe.training.batch_size // len(examples))
    learner.settle(examples, splits.valid.rows, passes, note)
    usual = float(recipe.method.default_learning_rate)
    rates = [usual * _LOW * (_HIGH / _LOW) ** (i / (steps - 1)) for i in range(steps)]
    changes = _swept(learner, recipe, examples, rates)
    smooth = smoothed(changes)
    least, suggestion, diverges = suggested(rates[: len(changes)], smooth)
    return RangeTest(suggestion, least, diverges, rates[: len(changes)], changes, smooth, recipe.learning_rate)


def _swept(learner: Learner, recipe: Recipe, examples: Sequence[Example], rates: Sequence[float]) -> list[float]:
    """How the loss has changed before each step, until it has grown beyond hope.

    Some rows are harder than others, and in fine-tuning that differs more than what a few steps gain: so each step's loss
    is held against the untrained model's on the same rows.
    """
    import torch

    from migaki.core.seeds import derive
    from migaki.training.loop import accumulate_gradients, adamw
    from migaki.training.plan import step_rows

    training = recipe.training
    optimizer: torch.optim.Optimizer = adamw(learner.parameter_groups(), training, rates[0])
    parameters = [p for group in learner.parameter_groups() for _, p in group.named]
    steps = [
        [examples[int(i)] for i in step_rows(len(examples), training.batch_size, recipe.seed, step)]
        for step in range(len(rates))
    ]
    learner.train_mode(training.dropout)
    before = [_mean_loss(learner, rows, training.label_smoothing) for rows in steps]
    changes: list[float] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(recipe.seed, "dropout"))
        for rows, start, rate in zip(steps, before, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * group["rate_factor"]
            optimizer.zero_grad(set_to_none=True)
            total = accumulate_gradients(learner, rows, training.label_smoothing, training.accumulate)
            loss = total / sum(row.weight for row in rows)
            if not math.isfinite(loss):
                break
            changes.append(loss - start)
            now = smoothed(changes)
            if len(changes) > _FEWEST and now[-1] > max(-min(now), 0.1 * start):
                break
            torch.nn.utils.clip_grad_norm_(parameters, training.clip or math.inf)
            optimizer.step()
    return changes


def _mean_loss(learner: Learner, rows: Sequence[Example], label_smoothing: float) -> float:
    import torch

    with torch.no_grad():
        groups = learner.groups(rows, len(rows))
        total = sum(float(learner.loss([rows[i] for i in group], label_smoothing)) for group in groups)
    return total / sum(row.weight for row in rows)


def smoothed(losses: Sequence[float]) -> list[float]:
    """An exponential mean of the losses, corrected for its beginning at zero.

    >>> smoothed([2.0, 2.0])
    [2.0, 2.0]
    """
    found, total = [], 0.0
    for number, loss in enumerate(losses, 1):
        total = _SMOOTHING * total + (1 - _SMOOTHING) * loss
        found.append(round(total / (1 - _SMOOTHING**number), 12))
    return found


def suggested(rates: Sequence[float], smooth: Sequence[float]) -> tuple[float, float, float | None]:
    """(rate of the least loss, suggestion, rate at which it diverges) of a sweep."""
    at = min(range(len(smooth)), key=lambda i: smooth[i])
    diverges = next((r for r, change in zip(rates[at:], smooth[at:], strict=True) if change > 0), None)
    return rates[at], float(f"{rates[at] / _BELOW_LEAST:.2g}"), diverges
