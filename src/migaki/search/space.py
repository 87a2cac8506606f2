"""A recipe in which values are ranges: what is searched, and every recipe that can come out of it."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from migaki.core.codec import Lines, dump_yaml, takes_list
from migaki.core.errors import Problem, RecipeError
from migaki.recipe import Recipe, read_recipe
from migaki.search.ranges import Choice, Range, Real, is_range, range_of

__all__ = ["Settings", "Space", "read_space"]

Settings = Mapping[str, Any]
"""The path of a setting (`method.rank`) and its value, for every range of a space."""

_FIXED = {
    "seed": "another seed is another draw, not a better setting; the best settings are trained with several seeds anyway",
    "task": "another task is judged by another figure",
    "task.kind": "another task is judged by another figure",
    "generality": "it changes what is measured and not the model",
}
_NOTHING = object()
_MOST_COMBINATIONS = 2000


@dataclass(frozen=True)
class Space:
    """Ranges over a recipe; the default is what the recipe is without them."""

    values: dict[str, Any]
    """Plain values of the recipe, ranges left out."""
    ranges: Mapping[str, Range]
    """By the path of the setting, in the order of the recipe."""
    default: Recipe
    defaults: Settings
    """What the searched settings are in the default."""
    folder: Path = field(default_factory=Path)
    source: str = ""
    lines: Lines = field(default_factory=dict)

    def recipe(self, settings: Settings) -> Recipe:
        """The recipe with these settings.

        Raises:
            RecipeError: they do not go together.
        """
        values = copy.deepcopy(self.values)
        for path, value in settings.items():
            _put(values, path.split("."), copy.deepcopy(value))
        return Recipe.from_mapping(values, self.folder, self.source, self.lines)

    def same(self, settings: Settings, value: Mapping[str, Any]) -> dict[str, Any]:
        """The settings with others put over them, as far as these lie within their ranges."""
        return {**settings, **{path: v for path, v in value.items() if path in self.ranges and self.holds(path, v)}}

    def holds(self, path: str, value: Any) -> bool:
        return self.ranges[path].holds(value)

    def inside(self, settings: Settings) -> bool:
        """Whether every setting lies within its range: a default need not."""
        return all(self.holds(path, value) for path, value in settings.items())

    def size(self) -> int | None:
        """How many recipes there are; None where there is no end of them."""
        grids = [r.grid() for r in self.ranges.values()]
        return None if any(g is None for g in grids) else math.prod(len(g or ()) for g in grids)

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every combination: the first setting of the recipe changes slowest, the last one fastest.

        Raises:
            RecipeError: names the ranges that have no end.
        """
        endless = [path for path, r in self.ranges.items() if isinstance(r, Real)]
        if endless:
            raise RecipeError(
                [
                    Problem(
                        self.place(path),
                        f"{self.ranges[path].written()} has no end of values, and a grid takes all of them; give a list, or "
                        "another --sampler (tpe, gp, random).",
                    )
                    for path in endless
                ],
                self.source or "recipe",
            )
        for values in itertools.product(*(r.grid() or () for r in self.ranges.values())):
            yield dict(zip(self.ranges, values, strict=True))

    def place(self, path: str) -> str:
        """Where a range stands: file, line and setting."""
        return _place(path, self.source, self.lines)

    def check(self) -> None:
        """Try every value of every list and both ends of every range in the recipe, and the combinations of lists.

        Raises:
            RecipeError: lists everything that no recipe can take, with its line.
        """
        problems: dict[str, Problem] = {}
        for path, r in self.ranges.items():
            for value in r.ends():
                self._try({**self.defaults, path: value}, path, value, problems)
        if not problems:
            for settings in self._combinations():
                self._try(settings, "", settings, problems)
                if problems:
                    break
        if problems:
            raise RecipeError(list(problems.values()), self.source or "recipe")

    def _combinations(self) -> Iterator[dict[str, Any]]:
        """Those of all lists, with the lowest value of each range, as far as they can be counted."""
        grids = [list(r.values) if isinstance(r, Choice) else r.ends()[:1] for r in self.ranges.values()]
        if math.prod(map(len, grids)) <= _MOST_COMBINATIONS:
            for values in itertools.product(*grids):
                yield dict(zip(self.ranges, values, strict=True))

    def _try(self, settings: Settings, path: str, value: Any, problems: dict[str, Problem]) -> None:
        try:
            self.recipe(settings)
        except RecipeError as error:
            for found in error.problems:
                where = self.place(path) if path else found.path
                text = f"{value!r} cannot be tried: {found.message}"
                problems.setdefault(f"{where} {text}", Problem(where, text))

    def written(self) -> str:
        """The recipe with its ranges, to be read, edited and searched again: a value that is not drawn stands under
        `default`."""
        values = self.default.resolved()
        for path, r in self.ranges.items():
            _put(values, path.split("."), {**r.written(), "default": self.defaults[path]})
        return dump_yaml(values)

    def with_ranges(self, found: Mapping[str, Any]) -> Space:
        """The same recipe with these ranges, as a recipe would write them, in place of none."""
        ranges = {path: range_of(value) for path, value in found.items()}
        resolved = self.default.resolved()
        return replace(self, ranges=ranges, defaults={path: _get(resolved, path.split(".")) for path in ranges})


def read_space(path: Path | str, settings: Sequence[str] = (), more: Mapping[str, Any] | None = None) -> Space:
    """The ranges in a recipe file, with `a.b=c` put over it; the space has none where the recipe has none.

    A list is a range where the setting itself takes no list; else a list is one value, and {choice: [...]} the range.

    Args:
        more: plain values for settings that the recipe leaves out.
    Raises:
        RecipeError: lists every problem with its line.
    """
    values, lines = read_recipe(path, settings)
    for key, value in (more or {}).items():
        if _get(values, key.split(".")) is _NOTHING:
            _put(values, key.split("."), value)
    return _space_of(values, Path(path).resolve().parent, str(path), lines)


def _space_of(values: dict[str, Any], folder: Path, source: str, lines: Lines) -> Space:
    marked = list(_marked(values, values, ()))
    plain = copy.deepcopy(values)
    # Written out, so that what is searched of the method has a place to stand.
    plain.setdefault("method", Recipe.model_fields["method"].default.kind)
    for path, _ in marked:
        _drop(plain, path.split("."))
    problems: list[Problem] = []
    ranges: dict[str, Range] = {}
    stated: dict[str, Any] = {}
    for path, mark in marked:
        reason, place = _FIXED.get(path), _place(path, source, lines)
        if reason:
            problems.append(Problem(place, f"cannot be searched: {reason}. Give one value."))
            continue
        try:
            ranges[path] = range_of(mark)
        except ValueError as error:
            problems.append(Problem(place, str(error)))
            continue
        if any(_holds_range(v) for v in (ranges[path].grid() or [])):
            problems.append(Problem(place, "a range within a range cannot be searched; write it beside it."))
        if isinstance(mark, Mapping) and "default" in mark:
            stated[path] = mark["default"]
    if problems:
        raise RecipeError(problems, source)
    default = _default(plain, ranges, stated, folder, source, lines)
    resolved = default.resolved()
    defaults = {}
    for path, r in ranges.items():
        value = _get(resolved, path.split("."))
        # A whole part is told as the recipe writes it, not with all that it resolves to.
        defaults[path] = stated[path] if path in stated else _first(r) if isinstance(value, dict) else value
    return Space(plain, ranges, default, defaults, folder, source, lines)


def _place(path: str, source: str, lines: Lines) -> str:
    keys: tuple[str, ...] = tuple(path.split("."))
    while keys and keys not in lines:
        keys = keys[:-1]
    line = lines.get(keys, 0) if keys else 0
    return f"{source}:{line}: {path}" if line and source else path


def _default(
    plain: dict[str, Any], ranges: Mapping[str, Range], stated: Settings, folder: Path, source: str, lines: Lines
) -> Recipe:
    """The recipe as it would be without the search: what is stated as the default, else what the setting is by itself; of
    whole parts, and of what has no default of its own, the first of the list."""
    values = copy.deepcopy(plain)
    for path, r in ranges.items():
        if path in stated:
            _put(values, path.split("."), copy.deepcopy(stated[path]))
        elif "." not in path or path == "data.train" or path.endswith((".kind", ".reference")):
            _put(values, path.split("."), copy.deepcopy(_first(r)))
    return Recipe.from_mapping(values, folder, source, lines)


def _first(r: Range) -> Any:
    return r.ends()[0]


def _marked(tree: dict[str, Any], node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Every range below the node, with its path."""
    if is_range(node) or (isinstance(node, list) and not takes_list(Recipe, tree, path)):
        yield ".".join(path), node
    elif isinstance(node, dict):
        for key, inner in node.items():
            yield from _marked(tree, inner, (*path, key))


def _holds_range(value: Any) -> bool:
    return is_range(value) or (isinstance(value, dict) and any(_holds_range(v) for v in value.values()))


def _get(values: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        if not isinstance(values, Mapping) or key not in values:
            return _NOTHING
        values = values[key]
    return values


def _put(values: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Set a value; a part given by its name alone (`method: lora`) grows into a mapping."""
    for key in keys[:-1]:
        inner = values.get(key)
        if not isinstance(inner, dict):
            name = {"model": "reference"}.get(key, "kind")
            inner = values[key] = {name: inner} if isinstance(inner, str) else {}
        values = inner
    values[keys[-1]] = value


def _drop(values: dict[str, Any], keys: Sequence[str]) -> None:
    for key in keys[:-1]:
        values = values[key]
    del values[keys[-1]]
