"""LoRA: low-rank factors beside chosen linear layers, written in the format that peft reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from migaki.core.parts import Advice, Learner, Method, Shape, Task
from migaki.core.types import Dataset
from migaki.methods.patterns import matches

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
    """Which linear layers: all of them but the output head, or name patterns such as [q_proj, v_proj] or [layer.5.*]. In a
    network without linear layers all convolutions that are not grouped; patterns may name such ones in any network."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs that are dropped in training."""
    dora: bool = False
    """Train how long each output's weights are apart from where they point, which the factors then change. Learns more like
    full fine-tuning at low ranks, and a step takes up to 1.6 times as long. Source: Liu et al. 2024, arXiv:2402.09353."""
    b_rate: PositiveFloat = 1.0
    """Learning rate of B over that of A. LoRA+ takes 16, where A keeps a rate that suits it: with it, lower learning_rate.
    Source: Hayou et al. 2024, arXiv:2402.12354."""
    rank_pattern: dict[str, PositiveInt] = Field(default={})
    """Other ranks for some layers, by name pattern ({q_proj: 16, layers.0.*: 4}); of several that fit the first counts."""
    alpha_pattern: dict[str, PositiveFloat] = Field(default={})
    """Other strengths for some layers, in the same way."""

    default_learning_rate: ClassVar[float] = 2e-4
    keeps_base: ClassVar[bool] = True

    def rank_of(self, layer: str) -> int:
        """Width of the factors beside the layer of this name."""
        return next((rank for pattern, rank in self.rank_pattern.items() if matches(layer, pattern)), self.rank)

    def alpha_of(self, layer: str) -> float:
        """Strength of the update of the layer of this name."""
        usual = self.alpha if self.alpha is not None else 2.0 * self.rank_of(layer)
        return next((alpha for pattern, alpha in self.alpha_pattern.items() if matches(layer, pattern)), usual)

    def scale_of(self, layer: str) -> float:
        """The factor before B A x (section 4.1 of the paper, or eq. 3 of rsLoRA).

        >>> Lora(rank=8, alpha=4, rank_pattern={"q_proj": 2}).scale_of("layers.0.q_proj")
        2.0
        """
        rank = self.rank_of(layer)
        return self.alpha_of(layer) / (rank**0.5 if self.rslora else rank)

    def space(self, task: Task, shape: Shape) -> dict[str, Any]:
        attention = _query_and_value(shape.linears)
        targets = {"method.targets": {"choice": ["all-linear", attention]}} if attention else {}
        return {
            **super().space(task, shape),
            "method.rank": [4, 8, 16, 32],
            "method.alpha": {"choice": [None, 8, 16, 32]},
            **targets,
        }

    def advice(self, task: Task, shape: Shape) -> Sequence[Advice]:
        attention = _query_and_value(shape.linears)
        first = {"training.learning_rate": 5e-4, "training.warmup": 0.06, "method.rank": 8, "method.alpha": 8}
        every = {"training.learning_rate": 2e-4, "method.alpha": 16, "method.targets": "all-linear"}
        return (
            Advice(
                {**first, **({"method.targets": attention} if attention else {})},
                "Hu et al. 2021, arXiv:2106.09685, table 9",
            ),
            Advice(every, "Dettmers et al. 2023, arXiv:2305.14314, section 4: all linear layers"),
        )

    def prepare(self, base: Base, task: Task, train: Dataset, seed: int) -> Learner:
        from migaki.methods.adapters import adapt
        from migaki.methods.tuned import TunedLearner

        network = task.network(base, train, seed)
        adapt(network, self, seed)
        return TunedLearner(network, self._saver(base), self._rate_factor)

    def restore(self, base: Base, task: Task, folder: Path) -> Learner:
        from migaki.methods.adapters import adapt, load_adapter
        from migaki.methods.tuned import TunedLearner

        network = task.restore(base, folder)
        adapt(network, self, seed=0)
        load_adapter(network, folder)
        return TunedLearner(network, self._saver(base), self._rate_factor)

    def _rate_factor(self, name: str) -> float:
        return self.b_rate if name.endswith(".lora_B") else 1.0

    def _saver(self, base: Base) -> Callable[[Any, Path], None]:
        from migaki.methods.adapters import save_adapter

        return lambda network, folder: save_adapter(network, self, base.reference, folder)


def _query_and_value(linears: Sequence[str]) -> list[str]:
    """What the layers of queries and of values are called, as the paper adapts them; empty where they are not found."""
    called = {name.rsplit(".", 1)[-1] for name in linears}
    pairs = (["query", "value"], ["q_proj", "v_proj"], ["q_lin", "v_lin"], ["query_proj", "value_proj"])
    return next((pair for pair in pairs if called.issuperset(pair)), [])
