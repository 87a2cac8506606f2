"""Full fine-tuning: every weight of the base moves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from migaki.core.parts import Advice, Learner, Method, Shape, Task
from migaki.core.types import Dataset

if TYPE_CHECKING:
    from migaki.models.base import Base

__all__ = ["Full"]


class Full(Method):
    """All weights are trained and saved as an ordinary Hugging Face folder. Costs four times the model in memory."""

    kind: Literal["full"] = "full"
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of a block over that of the one above it; the last block has this share of the head's. 1: all have the
    same; 0.8 to 0.95 is usual. Source: Clark et al. 2020, arXiv:2003.10555, appendix A."""
    gradual: bool = False
    """Begin with the head and the last block, and train one block more from each epoch on, at last the embeddings.
    Source: Howard & Ruder 2018, arXiv:1801.06146, section 3.3."""

    default_learning_rate: ClassVar[float] = 5e-5
    keeps_base: ClassVar[bool] = False

    def space(self, task: Task, shape: Shape) -> dict[str, Any]:
        return {**super().space(task, shape), "method.layer_decay": [0.8, 0.9, 1.0]}

    def advice(self, task: Task, shape: Shape) -> Sequence[Advice]:
        settings = {"training.learning_rate": 3e-5, "training.epochs": 4, "training.weight_decay": 0.01}
        return (Advice(settings, "Devlin et al. 2018, arXiv:1810.04805, appendix A.3"),)

    def prepare(self, base: Base, task: Task, train: Dataset, seed: int) -> Learner:
        from migaki.methods.depth import pace_of
        from migaki.methods.tuned import TunedLearner

        network = task.network(base, train, seed)
        network.requires_grad_(True)
        pace = pace_of(network, self.layer_decay, self.gradual)
        return TunedLearner(network, self._save_backbone, pace.rate_factor, pace.from_epoch)

    def restore(self, base: Base, task: Task, folder: Path) -> Learner:
        from migaki.methods.tuned import TunedLearner

        return TunedLearner(task.restore(base, folder), self._save_backbone)

    @staticmethod
    def _save_backbone(network: object, folder: Path) -> None:
        from migaki.methods.tuned import save_backbone

        save_backbone(network, folder)
