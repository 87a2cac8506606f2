"""General ability as a recipe sees it: what it is measured on, and what helps where too much of it was lost."""

from __future__ import annotations

from migaki.core.errors import Problem, RecipeError
from migaki.core.parts import Task
from migaki.core.types import Dataset
from migaki.data.generality import BUNDLED, OFF, general_probe
from migaki.recipe import Recipe

__all__ = ["probe_of", "remedies"]


def probe_of(recipe: Recipe) -> tuple[Dataset, ...]:
    """The sets on which a run of this recipe is measured before and after; none where the task has no such measure.

    Raises:
        RecipeError: rows are named, but the task has no such measure.
        DataError: the rows cannot be used.
    """
    task = recipe.task
    if type(task).generality is Task.generality:
        if recipe.generality in (BUNDLED, OFF):
            return ()
        raise RecipeError([Problem("generality", f"{task.kind} has no measure of general ability; leave this out.")])
    # Sets of topics are texts with one label each, whatever the rows of the task are.
    kind = "labelled" if "topics" in task.general else task.content_kind
    return general_probe(recipe.generality, task.general, kind)


def remedies(recipe: Recipe) -> list[str]:
    """What keeps more of the base, the simplest first: only what this recipe does not do yet."""
    training = recipe.training
    found = ["Lower training.learning_rate, for a start to a third."]
    if recipe.method.kind == "full":
        found.append("Train less of the model: method: lora, or method: frozen.")
    if training.interpolate is None:
        found.append("Keep a model between the base and the tuned one: training.interpolate: 0.5.")
    if not training.l2_sp:
        found.append("Pull the weights back to where they started: training.l2_sp.")
    if training.replay is None and recipe.task.content_kind == "conversation":
        found.append("Mix general conversations into the training: training.replay.")
    return found
