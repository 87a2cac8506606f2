"""What methods have in common that measure a file without a model: the floors that a model has to beat."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveFloat

from migaki.core.parts import Learner, Method, Role, Task
from migaki.core.types import Dataset
from migaki.methods.needs import require_fit

if TYPE_CHECKING:
    from migaki.methods.measured import MeasuredLearner

__all__ = ["Measuring"]


class Measuring(Method):
    """A logistic regression over a few numbers that are measured on each file, without any pretrained model.

    A subclass says which files, and brings the learner that measures them; its own settings are given to that learner.
    """

    penalty: PositiveFloat | None = None
    """Strength of the L2 penalty against the summed loss of the rows; null: the best of seven from 0.03 to 30 on the
    validation rows, by accuracy, then by loss."""

    uses_base: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True
    takes_steps: ClassVar[bool] = False
    varies_with_seed: ClassVar[bool] = False
    keeps_base: ClassVar[bool] = False
    measured_role: ClassVar[Role]
    """Tasks on such files it can be used for."""
    does: ClassVar[str]
    """In messages: looks at images."""

    @abstractmethod
    def learner(self) -> type[MeasuredLearner]:
        """Imported when it is needed: it brings numpy."""

    def baseline_name(self, task: Task) -> str:
        return "always the shares of the labels"

    def misfit(self, task: Task) -> str | None:
        if task.base_role == self.measured_role and task.one_label:
            return None
        return f"{self.kind} {self.does}, and rows of {task.kind} are none; the floor there is method: {task.floor}."

    def prepare(self, base: None, task: Task, train: Dataset, seed: int) -> Learner:
        require_fit(self, task)
        settings = self.model_dump(exclude={"kind", "penalty"})
        return self.learner().new(task, train, self.penalty, **settings)

    def restore(self, base: None, task: Task, folder: Path) -> Learner:
        return self.learner().load(folder)
