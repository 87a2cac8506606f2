"""What a setting may be in a search: one of several values, or a number between two bounds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Choice", "Range", "Real", "Whole", "is_range", "range_of"]

_KINDS = ("log", "uniform", "int", "choice")
_BESIDE = ("default", "step")
_DIGITS = 4
"""Significant digits of a drawn number: more of them say nothing, and a recipe stays readable."""


@dataclass(frozen=True)
class Choice:
    """One of several values, of whatever kind."""

    values: tuple[Any, ...]

    @property
    def ordered(self) -> bool:
        """Whether they are rising numbers, so that neighbours are alike."""
        numbers = [v for v in self.values if isinstance(v, int | float) and not isinstance(v, bool)]
        return len(numbers) == len(self.values) > 1 and all(a < b for a, b in itertools.pairwise(numbers))

    def grid(self) -> list[Any]:
        """Every value, in the order of the recipe."""
        return list(self.values)

    def ends(self) -> list[Any]:
        """Values which, when a recipe takes them, all others are taken."""
        return list(self.values)

    def holds(self, value: Any) -> bool:
        return any(value == v and type(value) is type(v) for v in self.values)

    def written(self) -> Any:
        """As it stands in a recipe."""
        return {"choice": list(self.values)}


@dataclass(frozen=True)
class Real:
    """A number between two bounds, both included, drawn evenly or evenly in its logarithm."""

    low: float
    high: float
    log: bool = False

    def grid(self) -> list[Any] | None:
        """None: there is no end of them."""
        return None

    def ends(self) -> list[Any]:
        return [self.low, self.high]

    def holds(self, value: Any) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high

    def written(self) -> Any:
        return {"log" if self.log else "uniform": [self.low, self.high]}

    def rounded(self, value: float) -> float:
        """The value with as many digits as are kept, within the bounds.

        >>> Real(1e-5, 1e-3, log=True).rounded(0.000123456)
        0.0001235
        """
        return min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True)
class Whole:
    """A whole number between two bounds, both included."""

    low: int
    high: int
    step: int = 1

    def grid(self) -> list[Any]:
        return list(range(self.low, self.high + 1, self.step))

    def ends(self) -> list[Any]:
        return [self.low, self.grid()[-1]]

    def holds(self, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value in self.grid()

    def written(self) -> Any:
        step = {"step": self.step} if self.step != 1 else {}
        return {"int": [self.low, self.high], **step}


Range = Choice | Real | Whole


def is_range(value: Any) -> bool:
    """Whether a mapping says that a setting is to be searched: {log: [a, b]}, {uniform: [a, b]}, {int: [a, b]} or
    {choice: [...]}.

    >>> is_range({"log": [1e-5, 1e-3]}), is_range({"kind": "lora"}), is_range({"int": 8})
    (True, False, False)
    """
    if not isinstance(value, Mapping):
        return False
    kinds = [key for key in value if key in _KINDS]
    return len(kinds) == 1 and isinstance(value[kinds[0]], list) and set(value) <= {*kinds, *_BESIDE}


def range_of(value: Mapping[str, Any] | Sequence[Any]) -> Range:
    """The range that a list, or a mapping for which `is_range` is true, stands for.

    Raises:
        ValueError: says what is wrong with it.

    >>> range_of({"int": [2, 6]}).grid()
    [2, 3, 4, 5, 6]
    """
    if not isinstance(value, Mapping):
        return _choice(value)
    kind = next(key for key in value if key in _KINDS)
    bounds = value[kind]
    if "step" in value and kind != "int":
        raise ValueError(f"step goes with int, not with {kind}; leave it out.")
    if kind == "choice":
        return _choice(bounds)
    if len(bounds) != 2 or not all(isinstance(b, int | float) and not isinstance(b, bool) for b in bounds):
        raise ValueError(f"{kind} takes two numbers, [lowest, highest], not {bounds}.")
    low, high = bounds
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"{kind}: [{low:g}, {high:g}] is empty; the first number is the lowest, the second the highest."
        )
    if kind == "int":
        return _whole(low, high, value.get("step", 1))
    if kind == "log" and low <= 0:
        raise ValueError(f"log: [{low:g}, {high:g}] begins at {low:g}, which has no logarithm; begin above 0.")
    return Real(float(low), float(high), kind == "log")


def _choice(values: Sequence[Any]) -> Choice:
    if not values:
        raise ValueError("a list to choose from is empty; give at least one value.")
    twice = next((v for i, v in enumerate(values) if any(v == w and type(v) is type(w) for w in values[:i])), None)
    if twice is not None:
        raise ValueError(f"{twice!r} stands twice in the list; it would be tried twice.")
    return Choice(tuple(values))


def _whole(low: float, high: float, step: Any) -> Whole:
    if not (isinstance(low, int) and isinstance(high, int)):
        raise ValueError(f"int takes whole numbers, not [{low:g}, {high:g}]; for others there is uniform or log.")
    if not isinstance(step, int) or isinstance(step, bool) or step < 1:
        raise ValueError(f"step {step!r} is not a whole number above 0.")
    return Whole(low, high, step)
