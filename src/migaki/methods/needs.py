"""What a method asks of a task, told in one way."""

from __future__ import annotations

from migaki.core.errors import Problem, RecipeError
from migaki.core.parts import Method, Task

__all__ = ["labels_missing", "require_fit"]


def require_fit(method: Method, task: Task) -> None:
    """Raises RecipeError where the method cannot be used for the task."""
    if found := method.misfit(task):
        raise RecipeError([Problem("method.kind", found)])


def labels_missing(method: Method, task: Task) -> str | None:
    """Why a method that chooses between labels does not fit; None where the task has labels."""
    if task.content_kind not in ("conversation", "transcribed"):
        return None
    instead = "lora, full, few_shot or retrieve" if task.has_texts else "lora, frozen, full or zero_shot"
    return f"{method.kind} chooses between labels, but {task.kind} writes answers; use {instead}."
