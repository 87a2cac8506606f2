"""Full fine-tuning: every weight of the base moves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from migaki.core.parts import Learner, Method, Task
from migaki.core.types import Dataset

if TYPE_CHECKING:
    from migaki.models.base import Base

__all__ = ["Full"]


class Full(Method):
    """All weights are trained and saved as an ordinary Hugging Face folder. Costs four times the model in memory."""

    kind: Literal["full"] = "full"
    default_learning_rate: ClassVar[float] = 5e-5
    keeps_base: ClassVar[bool] = False

    def prepare(self, base: Base, task: Task, train: Dataset, seed: int) -> Learner:
        from migaki.methods.tuned import TunedLearner

        network = task.network(base, train, seed)
        network.requires_grad_(True)
        return TunedLearner(network, self._save_backbone)

    def restore(self, base: Base, task: Task, folder: Path) -> Learner:
        from migaki.methods.tuned import TunedLearner

        return TunedLearner(task.restore(base, folder), self._save_backbone)

    @staticmethod
    def _save_backbone(network: object, folder: Path) -> None:
        from migaki.methods.tuned import save_backbone

        save_backbone(network, folder)
