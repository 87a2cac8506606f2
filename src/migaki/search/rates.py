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
_SMOOTHING = 0.9
_DIVERGED = 2.0
"""Ends where the smoothed loss is so many times its smallest: beyond it nothing is learned any more."""
_BELOW_LEAST = 4.0
"""Of the rate at which the smoothed loss is least: in a sweep of so few steps the harm of a rate shows late, and what a
rate needs to be stable for a whole training is less than what it survives for some steps."""


@dataclass(frozen=True)
class RangeTest:
    """What was seen, and what to try."""

    suggestion: float
    """A rate to start from; right within a factor of about 3."""
    least: float
    """The rate at which the smoothed loss was least."""
    diverges: float | None
    """The rate at which it was twice that; None where it never was."""
    rates: list[float]
    losses: list[float]
    """Mean loss of each step's rows before the step, one for each rate."""
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
    losses = _swept(learner, recipe, examples, rates)
    smooth = smoothed(losses)
    least, suggestion, diverges = suggested(rates[: len(losses)], smooth)
    return RangeTest(suggestion, least, diverges, rates[: len(losses)], losses, smooth, recipe.learning_rate)


def _swept(learner: Learner, recipe: Recipe, examples: Sequence[Example], rates: Sequence[float]) -> list[float]:
    """The loss before each step, until it has grown beyond hope."""
    import torch

    from migaki.core.seeds import derive
    from migaki.training.loop import accumulate_gradients, adamw
    from migaki.training.plan import step_rows

    training = recipe.training
    optimizer: torch.optim.Optimizer = adamw(learner.parameter_groups(), training, rates[0])
    parameters = [p for group in learner.parameter_groups() for _, p in group.named]
    losses: list[float] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(recipe.seed, "dropout"))
        for step, rate in enumerate(rates):
            for group in optimizer.param_groups:
                group["lr"] = rate * group["rate_factor"]
            rows = [examples[int(i)] for i in step_rows(len(examples), training.batch_size, recipe.seed, step)]
            learner.train_mode(training.dropout)
            optimizer.zero_grad(set_to_none=True)
            total = accumulate_gradients(learner, rows, training.label_smoothing, training.accumulate)
            loss = total / sum(row.weight for row in rows)
            if not math.isfinite(loss):
                break
            losses.append(loss)
            now = smoothed(losses)
            if len(losses) > 10 and now[-1] > _DIVERGED * min(now):
                break
            torch.nn.utils.clip_grad_norm_(parameters, training.clip or math.inf)
            optimizer.step()
    return losses


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
    diverges = next((r for r, loss in zip(rates[at:], smooth[at:], strict=True) if loss > _DIVERGED * smooth[at]), None)
    return rates[at], float(f"{rates[at] / _BELOW_LEAST:.2g}"), diverges
