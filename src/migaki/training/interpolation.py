"""Weights between base and tuned model: how much of the gain stays where more of the base stays.

Source: Wortsman et al. 2021 (WiSE-FT), arXiv:2109.01903, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from migaki.core.parts import Learner
from migaki.core.types import Row
from migaki.training.checkpoint import Start
from migaki.training.loop import Judge

__all__ = ["ALPHAS", "Point", "interpolation_curve", "keep_interpolated", "mix", "weights_of"]

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Point:
    """What was found with alpha of the way from the base to the tuned model (0..1) gone."""

    alpha: float
    scores: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Figures that are no numbers become null."""
        found = {name: value if math.isfinite(value) else None for name, value in self.scores.items()}
        return {**asdict(self), "scores": found}


def weights_of(learner: Learner) -> dict[str, torch.Tensor]:
    """A copy of everything that is trained, by name."""
    return {name: p.detach().clone() for group in learner.parameter_groups() for name, p in group.named}


@torch.no_grad()
def mix(learner: Learner, start: Weights, tuned: Weights, alpha: float) -> None:
    """Give the learner the weights (1 - alpha) * start + alpha * tuned; for 0 and 1 they are these, bit for bit.

    Of LoRA's factors, whose product is what was learned, only B goes the way: half of B is half of the update.
    """
    for group in learner.parameter_groups():
        for name, p in group.named:
            if alpha in (0.0, 1.0):
                p.copy_(tuned[name] if alpha else start[name])
            elif group.mixes:
                p.copy_(torch.lerp(start[name].to(p.device), tuned[name].to(p.device), alpha))
            else:
                p.copy_(tuned[name])


def interpolation_curve(
    learner: Learner,
    start: Weights,
    tuned: Weights,
    score: Callable[[], dict[str, float]],
    alphas: Sequence[float] = ALPHAS,
) -> list[Point]:
    """The scores at each alpha, in evaluation mode; afterwards the learner holds the tuned weights.

    Args:
        start: the weights before the first step, as `Start.tensors` gives them.
        tuned: the weights that training ended with, as `weights_of` gives them.
        score: judges the learner as it is: on validation rows, on a probe of general ability, or on both.
    """
    learner.evaluation_mode()
    found = []
    try:
        for alpha in alphas:
            mix(learner, start, tuned, alpha)
            found.append(Point(alpha, score()))
    finally:
        mix(learner, start, tuned, 1.0)
    return found


def keep_interpolated(
    learner: Learner,
    start: Start,
    wanted: float | Literal["best"],
    judge: Judge,
    valid: Sequence[Row],
    watch: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Judge the way from base to tuned model on the validation rows, and leave the learner where the recipe wants it.

    The best is judged like a checkpoint; of equal ones the one nearest to the base is kept, for it has forgotten least.

    Returns:
        {"kept": alpha, "curve": [{"alpha": ..., "scores": {...}}, ...]}, JSON-able.
    """
    before, after = start.tensors(), weights_of(learner)
    alphas = sorted({*ALPHAS, *([] if wanted == "best" else [wanted])})
    curve = interpolation_curve(
        learner, before, after, lambda: judge.scores(learner.predict(valid, answers=0, watch=watch)), alphas
    )
    kept = curve[0]
    for point in curve[1:]:
        if point.alpha == wanted or (wanted == "best" and judge.beats(point.scores, kept.scores)):
            kept = point
    mix(learner, before, after, kept.alpha)
    return {"kept": kept.alpha, "curve": [point.as_json() for point in curve]}
