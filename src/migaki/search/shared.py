"""What all trials of a process have in common: rows, weights and tokens are loaded once and never changed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migaki.core.errors import Problem, RecipeError
from migaki.core.parts import Shape
from migaki.core.types import Dataset, Row, Splits
from migaki.data.replay import replay_rows
from migaki.recipe import Recipe
from migaki.run import base_of

if TYPE_CHECKING:
    from migaki.models.base import Base

__all__ = ["Shared", "check_same_rows", "shape_of"]


_OF_STEPS = frozenset({"learning_rate", "epochs", "batch_size", "warmup", "schedule", "weight_decay"})
"""Settings of training that change what steps do, and nothing of the learner before the first one."""


@dataclass
class Shared:
    """Rows by what the recipe says of the data, weights by what it says of the model."""

    runs: Path
    _splits: dict[str, Splits] = field(default_factory=dict)
    _bases: dict[str, Base] = field(default_factory=dict)
    _replays: dict[str, Dataset] = field(default_factory=dict)
    _starts: dict[str, dict[str, float]] = field(default_factory=dict)

    def splits(self, recipe: Recipe) -> Splits:
        """The same for every recipe with this data section, whatever its seed."""
        key = _key(recipe.data, recipe.task.content_kind)
        if key not in self._splits:
            self._splits[key] = recipe.data.load(recipe.task.content_kind, recipe.seed)
        return self._splits[key]

    def base(self, recipe: Recipe) -> Base | None:
        """Weights as they were loaded; whoever trains them copies them first."""
        if not recipe.method.uses_base:
            return None
        key = _key(recipe.model, recipe.task.base_role)
        if key not in self._bases:
            self._bases[key] = base_of(recipe.model, recipe.task.base_role, self.runs)
        return self._bases[key]

    def replay(self, recipe: Recipe) -> Dataset | None:
        """The general rows that the recipe mixes into the training."""
        wanted = recipe.training.replay
        if wanted is None:
            return None
        key = _key(recipe.data, recipe.task.content_kind, wanted, recipe.seed)
        if key not in self._replays:
            self._replays[key], _ = replay_rows(
                recipe.data, wanted.rows, wanted.share, self.splits(recipe), recipe.task.content_kind, recipe.seed
            )
        return self._replays[key]

    def start(self, recipe: Recipe) -> dict[str, float]:
        """Figures of the untrained learner, filled in by the first training that judges it."""
        parts = recipe.model_dump(mode="json")
        parts["training"] = {name: value for name, value in parts["training"].items() if name not in _OF_STEPS}
        return self._starts.setdefault(_key(parts), {})


def _key(*parts: Any) -> str:
    return json.dumps([p.model_dump(mode="json") if hasattr(p, "model_dump") else p for p in parts], sort_keys=True)


def shape_of(base: Base | None) -> Shape:
    """What a method has to know of the base to name its space."""
    if base is None:
        return Shape()
    from torch import nn

    from migaki.models.vision import eye_of

    linears = tuple(name for name, module in base.model.named_modules() if isinstance(module, nn.Linear))
    # Of an image model its residual blocks: a configuration counts stages, or nothing.
    eye = eye_of(base.model)
    blocks = len(eye.blocks) if eye else getattr(base.model.config.get_text_config(), "num_hidden_layers", 0)
    return Shape(int(blocks), linears)


def check_same_rows(shared: Shared, default: Recipe, other: Recipe, where: str) -> None:
    """Refuse data settings that change by which rows the trials are judged.

    Raises:
        RecipeError: validation or test rows differ, so figures could not be compared.
    """
    for name in ("valid", "test"):
        ours, theirs = (getattr(shared.splits(recipe), name) for recipe in (default, other))
        if [_judged(row) for row in ours.rows] != [_judged(row) for row in theirs.rows]:
            found = (
                f"changes which rows are in {name} or what is right for them ({len(ours)} and {len(theirs)} rows), so "
                "figures could not be compared. Give one value, or search it with files of its own for valid and test."
            )
            raise RecipeError([Problem(where, found)])


def _judged(row: Row) -> tuple[str, Any]:
    content = row.content.as_json()
    target = {k: v for k, v in content.items() if k not in ("text", "text_pair", "pair")}
    return str(row.place), target
