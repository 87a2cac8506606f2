"""Small grey pixels, and a logistic regression over them: the floor that a model of images has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from migaki.core.parts import Role, Shape, Task
from migaki.methods.measuring import MeasuringFiles

if TYPE_CHECKING:
    from migaki.methods.thumbnails import ThumbnailLearner

__all__ = ["Pixels"]


class Pixels(MeasuringFiles):
    """Each image as a square of a few grey pixels, and a logistic regression over them, without any pretrained model.

    What a model of images is worth is what it adds to this. Source: the linear classifier of LeCun et al. 1998,
    doi:10.1109/5.726791, section III.
    """

    kind: Literal["pixels"] = "pixels"
    side: Annotated[int, Field(ge=2, le=128)] = 16
    """Pixels on each side of the square to which an image is made smaller, whatever its own sides are."""

    measured_role: ClassVar[Role] = "image"
    does: ClassVar[str] = "looks at images"

    def space(self, task: Task, shape: Shape) -> dict[str, Any]:
        return {"method.side": [8, 16, 32], "method.penalty": {"log": [0.01, 100.0]}}

    def learner(self, task: Task) -> type[ThumbnailLearner]:
        from migaki.methods.thumbnails import ThumbnailLearner

        return ThumbnailLearner
