"""What a method asks of a task, told in one way."""

from __future__ import annotations

from migaki.core.errors import Problem, RecipeError
from migaki.core.parts import Method, Task

__all__ = ["require_labels"]


def require_labels(method: Method, task: Task) -> None:
    """Raises RecipeError where the task has no labels to choose between."""
    if task.content_kind == "conversation":
        found = f"{method.kind} chooses between labels, but {task.kind} writes answers; use lora, full, few_shot or retrieve."
        raise RecipeError([Problem("method.kind", found)])
