"""Partly frozen: the last blocks and the head are trained, everything below stays as it is and is computed only once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import NonNegativeInt

from migaki.core.errors import Problem, RecipeError
from migaki.core.parts import Learner, Method, Task
from migaki.core.types import Dataset

if TYPE_CHECKING:
    from migaki.models.base import Base

__all__ = ["Frozen"]


class Frozen(Method):
    """The last `blocks` blocks, the norm behind them and the task's head are trained; only they are saved.

    What enters the first trained block never changes, so it is kept on disk and an epoch costs a fraction.
    """

    kind: Literal["frozen"] = "frozen"
    blocks: NonNegativeInt = 1
    """How many of the last blocks are trained; 0: the head alone."""

    default_learning_rate: ClassVar[float] = 1e-4
    keeps_base: ClassVar[bool] = True

    def prepare(self, base: Base, task: Task, train: Dataset, seed: int) -> Learner:
        return self._learner(task.network(base, train, seed))

    def restore(self, base: Base, task: Task, folder: Path) -> Learner:
        from migaki.methods.tuned import load_trained

        learner = self._learner(task.restore(base, folder))
        load_trained(learner.network, folder)  # type: ignore[attr-defined]
        return learner

    def _learner(self, network: Any) -> Learner:
        from migaki.methods.tuned import TunedLearner, blocks_of, final_norms, save_trained

        blocks = blocks_of(network.backbone)
        if self.blocks > len(blocks):
            found = f"{self.blocks} is more than the {len(blocks)} blocks of this model; use method: full to train all of it."
            raise RecipeError([Problem("method.blocks", found)])
        network.requires_grad_(True)
        network.backbone.requires_grad_(False)
        last = blocks[len(blocks) - self.blocks :]
        for block in last:
            block.requires_grad_(True)
        if self.blocks:
            for norm in final_norms(network.backbone, blocks):
                norm.requires_grad_(True)
        if not any(p.requires_grad for p in network.parameters()):
            raise RecipeError(
                [Problem("method.blocks", "with 0 blocks nothing of a generator is left to train; give 1 or more.")]
            )
        return TunedLearner(network, save_trained)
