"""What is tried before anything is drawn: the recipe as it is, what was published for the method, and a few rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from migaki.core.parts import Shape
from migaki.search.space import Settings, Space

__all__ = ["First", "first_trials"]

_LADDER = (1.0, 1 / 3, 3.0)
"""Learning rates, as multiples of the method's usual one."""
_RATE = "training.learning_rate"


@dataclass(frozen=True)
class First:
    """Settings, and why they are tried."""

    settings: Settings
    origin: str


def first_trials(space: Space, shape: Shape) -> list[First]:
    """The default, rules of thumb with their source, and a short ladder of learning rates; none of them twice.

    Of a rule of thumb counts what is searched and lies within its range; the rest is as in the default.
    """
    default = space.default
    found = [First(dict(space.defaults), "default")]
    inside = space.same(_within(space), {})
    advice = default.method.advice(default.task, shape) if "method" not in space.ranges else ()
    for one in advice:
        found.append(First(space.same(inside, one.settings), one.source))
    if _RATE in space.ranges and default.method.takes_steps:
        usual = default.method.default_learning_rate
        for factor in _LADDER:
            rate = float(f"{usual * factor:.3g}")
            if space.holds(_RATE, rate):
                found.append(First({**inside, _RATE: rate}, "ladder of rates"))
    return _once(found)


def _within(space: Space) -> dict[str, Any]:
    """The default, and where that lies outside of a range its middle."""
    return {path: value if space.holds(path, value) else _middle(space, path) for path, value in space.defaults.items()}


def _middle(space: Space, path: str) -> Any:
    r = space.ranges[path]
    values = r.grid()
    if values is not None:
        return values[len(values) // 2]
    low, high = r.ends()
    return r.rounded((low * high) ** 0.5 if r.log else (low + high) / 2)  # type: ignore[union-attr]


def _once(found: Sequence[First]) -> list[First]:
    kept: list[First] = []
    for one in found:
        if all(one.settings != other.settings for other in kept):
            kept.append(one)
    return kept
