"""Small grey pixels, and a logistic regression over them: the floor that a model of images has to beat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat

from migaki.core.parts import Learner, Method, Shape, Task
from migaki.core.types import Dataset
from migaki.methods.needs import require_fit

__all__ = ["Pixels"]


class Pixels(Method):
    """Each image as a square of a few grey pixels, and a logistic regression over them, without any pretrained model.

    What a model of images is worth is what it adds to this. Source: the linear classifier of LeCun et al. 1998,
    doi:10.1109/5.726791, section III.
    """

    kind: Literal["pixels"] = "pixels"
    side: Annotated[int, Field(ge=2, le=128)] = 16
    """Pixels on each side of the square to which an image is made smaller, whatever its own sides are."""
    penalty: PositiveFloat | None = None
    """Strength of the L2 penalty against the summed loss of the rows; null: the best of seven from 0.03 to 30 on the
    validation rows, by accuracy, then by loss."""

    uses_base: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True
    takes_steps: ClassVar[bool] = False
    varies_with_seed: ClassVar[bool] = False
    keeps_base: ClassVar[bool] = False

    def baseline_name(self, task: Task) -> str:
        return "always the shares of the labels"

    def misfit(self, task: Task) -> str | None:
        if task.base_role == "image" and task.one_label:
            return None
        return f"pixels looks at images, and rows of {task.kind} are none; the floor there is method: {task.floor}."

    def space(self, task: Task, shape: Shape) -> dict[str, Any]:
        return {"method.side": [8, 16, 32], "method.penalty": {"log": [0.01, 100.0]}}

    def prepare(self, base: None, task: Task, train: Dataset, seed: int) -> Learner:
        from migaki.methods.thumbnails import ThumbnailLearner

        require_fit(self, task)
        return ThumbnailLearner.new(task, train, self.penalty, side=self.side)

    def restore(self, base: None, task: Task, folder: Path) -> Learner:
        from migaki.methods.thumbnails import ThumbnailLearner

        return ThumbnailLearner.load(folder)
