"""LoRA: low-rank factors beside chosen linear layers, written in the format that peft reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from migaki.core.parts import Learner, Method, Task
from migaki.core.types import Dataset

if TYPE_CHECKING:
    from migaki.models.base import Base

__all__ = ["Lora"]


class Lora(Method):
    """Low-rank factors beside chosen linear layers; the base stays frozen. Source: Hu et al. 2021, arXiv:2106.09685."""

    kind: Literal["lora"] = "lora"
    rank: PositiveInt = 8
    """Width of the factors. Trained parameters and their memory grow in proportion."""
    alpha: PositiveFloat | None = None
    """Strength: the update is scaled by alpha / rank; null: twice the rank, so that the scale stays 2."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead, so that high ranks keep learning. Source: Kalajdzievski 2023, arXiv:2312.03732."""
    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Which linear layers: all of them but the output head, or name patterns such as [q_proj, v_proj] or [layer.5.*]."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs that are dropped in training."""

    default_learning_rate: ClassVar[float] = 2e-4
    keeps_base: ClassVar[bool] = True

    @property
    def scale(self) -> float:
        """The factor before B A x (section 4.1 of the paper, or eq. 3 of rsLoRA)."""
        alpha = self.alpha if self.alpha is not None else 2.0 * self.rank
        return alpha / self.rank**0.5 if self.rslora else alpha / self.rank

    def prepare(self, base: Base, task: Task, train: Dataset, seed: int) -> Learner:
        from migaki.methods.adapters import adapt
        from migaki.methods.tuned import TunedLearner

        network = task.network(base, train, seed)
        adapt(network, self, seed)
        return TunedLearner(network, self._saver(base))

    def restore(self, base: Base, task: Task, folder: Path) -> Learner:
        from migaki.methods.adapters import adapt, load_adapter
        from migaki.methods.tuned import TunedLearner

        network = task.restore(base, folder)
        adapt(network, self, seed=0)
        load_adapter(network, folder)
        return TunedLearner(network, self._saver(base))

    def _saver(self, base: Base) -> Callable[[Any, Path], None]:
        from migaki.methods.adapters import save_adapter

        return lambda network, folder: save_adapter(network, self, base.reference, folder)
