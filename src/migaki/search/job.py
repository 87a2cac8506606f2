"""What all workers of a search have to agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from migaki.core.parts import Task
from migaki.recipe import Recipe
from migaki.search.first import First
from migaki.search.ledger import Ledger
from migaki.search.pruning import Figure, evaluations_of
from migaki.search.shared import Shared
from migaki.search.space import Settings, Space

__all__ = ["SECONDS", "Job", "figure_of", "natural"]

SECONDS = ("parameters", "latency")
"""What can be wanted small beside the main figure."""


@dataclass(frozen=True)
class Job:
    """One search: its space, its limits, and where it lies."""

    space: Space
    folder: Path
    runs: Path
    sampler: str
    pruner: str
    limit: int
    """Trials at most."""
    firsts: Sequence[First]
    """What is tried before anything is drawn; of a grid everything."""
    seeds: int
    """Trainings of each candidate in the end."""
    candidates: int
    workers: int
    whole_s: float
    """Expected seconds of a whole training, until some are known."""
    deadline_s: float | None = None
    """When all has to be over, by the clock of the machine; None: never."""
    storage: str | None = None
    second: Literal["parameters", "latency"] | None = None

    @property
    def task(self) -> Task:
        return self.space.default.task

    @property
    def seed(self) -> int:
        return self.space.default.seed

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        first: Literal["maximize", "minimize"] = "maximize" if self.task.primary[1] == "max" else "minimize"
        return [first, "minimize"] if self.second else [first]

    def ledger(self) -> Ledger:
        """The list of trials, opened by this process."""
        return Ledger(self.folder, self.folder.name, self.directions, self.storage)

    def trial_folder(self, number: int) -> Path:
        """Named as people count, from 1."""
        return self.folder / "trials" / f"{number + 1:04d}"

    def recipe(self, settings: Settings) -> Recipe:
        """The recipe of a trial.

        Raises:
            RecipeError: the settings do not go together.
        """
        return self.space.recipe(settings)

    def evaluations(self, recipe: Recipe, shared: Shared) -> int:
        """How many evaluations a whole training has, the one at its start left out."""
        if not recipe.method.takes_steps:
            return 1
        training, replay = recipe.training, shared.replay(recipe)
        rows = len(shared.splits(recipe).train) + (len(replay) if replay else 0)
        return evaluations_of(
            rows, training.batch_size, training.epochs, training.max_steps, training.evaluations_per_epoch
        )


def figure_of(task: Task, scores: Mapping[str, float]) -> Figure:
    """What trials are ranked by: larger is better, and of equal ones the smaller loss."""
    metric, better = task.primary
    return (scores[metric] if better == "max" else -scores[metric], -scores["loss"])


def natural(task: Task, figure: Figure) -> float:
    """The metric itself."""
    return figure[0] if task.primary[1] == "max" else -figure[0]
