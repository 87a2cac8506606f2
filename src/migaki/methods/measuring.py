"""The floors: methods without a pretrained model, which any other has to beat."""

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

__all__ = ["Floor", "Measuring", "MeasuringFiles"]


class Floor(Method):
    """Learns labels from the rows alone, without steps, and the same whatever the seed."""

    uses_base: ClassVar[bool] = False
    takes_steps: ClassVar[bool] = False
    varies_with_seed: ClassVar[bool] = False
    keeps_base: ClassVar[bool] = False


class Measuring(Floor):
    """A logistic regression over numbers that are measured on each row.

    A subclass brings the learner that measures them; its own settings are given to that learner.
    """

    penalty: PositiveFloat | None = None
    """Strength of the L2 penalty against the summed loss of the rows; null: the best of seven from 0.03 to 30 on the
    validation rows, by accuracy, then by loss."""

    @abstractmethod
    def learner(self, task: Task) -> type[MeasuredLearner]:
        """Imported when it is needed: it brings numpy."""

    def baseline_name(self, task: Task) -> str:
        return "always the shares of the labels"

    def prepare(self, base: None, task: Task, train: Dataset, seed: int) -> Learner:
        require_fit(self, task)
        settings = self.model_dump(exclude={"kind", "penalty"})
        return self.learner(task).new(task, train, self.penalty, **settings)

    def restore(self, base: None, task: Task, folder: Path) -> Learner:
        return self.learner(task).load(folder)


class MeasuringFiles(Measuring):
    """The same on rows that are files with one label."""

    measured_role: ClassVar[Role]
    """Tasks on such files it can be used for."""
    does: ClassVar[str]
    """In messages: looks at images."""

    def misfit(self, task: Task) -> str | None:
        if task.base_role == self.measured_role and task.one_label:
            return None
        return f"{self.kind} {self.does}, and rows of {task.kind} are none; the floor there is method: {task.floor}."
