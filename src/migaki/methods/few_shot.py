"""A handful of training rows shown to the model, which stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import PositiveInt

from migaki.core.parts import Learner, Method, Shape, Task
from migaki.core.types import Dataset
from migaki.methods.needs import require_fit

if TYPE_CHECKING:
    from migaki.models.base import Base

__all__ = ["FewShot"]


class FewShot(Method):
    """Some rows are shown to a generator as earlier turns; an encoder takes the nearest class mean of some of each class.

    Which rows, the seed decides.

    Source: Brown et al. 2020, arXiv:2005.14165 (generators); Snell et al. 2017, arXiv:1703.05175 (encoders).
    """

    kind: Literal["few_shot"] = "few_shot"
    shots: PositiveInt = 4
    """Rows that are shown: in all for a generator, of each class for an encoder. Fewer where they do not fit."""

    takes_steps: ClassVar[bool] = False
    new_knowledge: ClassVar[str] = "show other examples"
    keeps_base: ClassVar[bool] = True

    def baseline_name(self, task: Task) -> str:
        return "base, no examples shown" if task.content_kind == "conversation" else task.baseline_name()

    def misfit(self, task: Task) -> str | None:
        if task.content_kind == "transcribed":
            return f"few_shot shows rows to a model, and one of speech hears a single recording; use lora or zero_shot for {task.kind}."
        if task.content_kind not in ("tagged", "multi_labelled"):
            return None
        return f"few_shot takes the mean of a few rows of each label, but rows of {task.kind} have no one label; use probe."

    def space(self, task: Task, shape: Shape) -> dict[str, Any]:
        return {"method.shots": [1, 2, 4, 8, 16]}

    def prepare(self, base: Base, task: Task, train: Dataset, seed: int) -> Learner:
        from migaki.methods.prompting import AskedLearner, FewLearner, chosen_rows

        require_fit(self, task)
        network = task.network(base, train, seed)
        if task.content_kind == "conversation":
            return AskedLearner(network, [row.content for row in chosen_rows(train.rows, self.shots, seed)])
        return FewLearner(network, self.shots, seed)

    def restore(self, base: Base, task: Task, folder: Path) -> Learner:
        from migaki.methods.prompting import AskedLearner, FewLearner, load_shown

        network = task.restore(base, folder)
        if task.content_kind == "conversation":
            return AskedLearner(network, load_shown(folder))
        return FewLearner(network, self.shots, 0)
