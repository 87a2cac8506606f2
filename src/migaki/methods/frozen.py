"""Partly frozen: the last blocks, or what the recipe names, are trained; what lies below is computed only once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from migaki.core.errors import Problem, RecipeError
from migaki.core.parts import Advice, Learner, Method, Shape, Task
from migaki.core.types import Dataset
from migaki.methods.patterns import check_patterns, matches

if TYPE_CHECKING:
    from migaki.models.base import Base

__all__ = ["Frozen"]


class Frozen(Method):
    """The last `blocks` blocks, the norm behind them and the task's head are trained; only they are saved.

    What enters the first trained block never changes, so it is kept on disk and an epoch costs a fraction.
    """

    kind: Literal["frozen"] = "frozen"
    blocks: NonNegativeInt | None = None
    """How many of the last blocks are trained; 0: the head alone. null: 1, or none of them where train says what is."""
    train: list[str] | None = None
    """Instead of blocks: name patterns of the layers or parameters that are trained beside the head, such as
    [layer.11, LayerNorm] or [q_proj, layers.5.*]."""
    norms: bool = False
    """Train all norms as well."""
    biases: bool = False
    """Train all biases as well; with blocks: 0 they alone are, which is BitFit. Source: Ben Zaken et al. 2021,
    arXiv:2106.10199."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of a block over that of the one above it; the last block has this share of the head's. 1: all have the
    same; 0.8 to 0.95 is usual. Source: Clark et al. 2020, arXiv:2003.10555, appendix A."""
    gradual: bool = False
    """Begin with the head and the highest of the trained blocks, and train one more from each epoch on.
    Source: Howard & Ruder 2018, arXiv:1801.06146, section 3.3."""

    default_learning_rate: ClassVar[float] = 5e-4
    keeps_base: ClassVar[bool] = True

    @model_validator(mode="after")
    def _says_once_what_is_trained(self) -> Self:
        if self.blocks is not None and self.train is not None:
            raise ValueError("blocks and train both say what is trained; leave one of them out.")
        return self

    def space(self, task: Task, shape: Shape) -> dict[str, Any]:
        most = min(4, shape.blocks)
        depth = {"method.blocks": list(range(1, most + 1))} if self.train is None and most > 1 else {}
        return {**super().space(task, shape), **depth, "method.layer_decay": [0.8, 0.9, 1.0]}

    def advice(self, task: Task, shape: Shape) -> Sequence[Advice]:
        if self.train is not None:
            return ()
        quarter = max(1, round(shape.blocks / 4))
        return (Advice({"method.blocks": quarter}, "Lee et al. 2019, arXiv:1911.03090: a quarter of the blocks"),)

    def prepare(self, base: Base, task: Task, train: Dataset, seed: int) -> Learner:
        return self._learner(task.network(base, train, seed))

    def restore(self, base: Base, task: Task, folder: Path) -> Learner:
        from migaki.methods.tuned import load_trained

        learner = self._learner(task.restore(base, folder))
        load_trained(learner.network, folder)  # type: ignore[attr-defined]
        return learner

    def _learner(self, network: Any) -> Learner:
        from migaki.methods.depth import pace_of
        from migaki.methods.tuned import TunedLearner, save_trained

        network.requires_grad_(True)
        network.backbone.requires_grad_(False)
        if self.train is None:
            self._train_blocks(network.backbone, 1 if self.blocks is None else self.blocks)
        else:
            self._train_named(network.backbone, self.train)
        if self.norms:
            for module in network.backbone.modules():
                if "norm" in type(module).__name__.lower():
                    module.requires_grad_(True)
        if self.biases:
            self._train_biases(network.backbone)
        if not any(p.requires_grad for p in network.parameters()):
            found = "with 0 blocks nothing of a generator is left to train; give 1 or more."
            if self.train is not None:
                found = "names nothing, and a generator has no head of its own to train."
            raise RecipeError([Problem("method.blocks" if self.train is None else "method.train", found)])
        pace = pace_of(network, self.layer_decay, self.gradual)
        return TunedLearner(network, save_trained, pace.rate_factor, pace.from_epoch)

    def _train_blocks(self, backbone: Any, n: int) -> None:
        from migaki.methods.tuned import blocks_of, final_norms

        blocks = blocks_of(backbone)
        if n > len(blocks):
            found = f"{n} is more than the {len(blocks)} blocks of this model; use method: full to train all of it."
            raise RecipeError([Problem("method.blocks", found)])
        for block in blocks[len(blocks) - n :]:
            block.requires_grad_(True)
        for norm in final_norms(backbone, blocks) if n else ():
            norm.requires_grad_(True)

    @staticmethod
    def _train_named(backbone: Any, patterns: list[str]) -> None:
        # A matrix that is input and output embedding at once goes by both names.
        named = list(backbone.named_parameters(remove_duplicate=False))
        above = {name: list(accumulate(name.split("."), "{}.{}".format)) for name, _ in named}
        layers = (name.split(".")[-2] for name in above if "." in name)
        check_patterns("method.train", patterns, [path for paths in above.values() for path in paths], layers)
        for name, p in named:
            if any(matches(path, pattern) for path in above[name] for pattern in patterns):
                p.requires_grad_(True)

    @staticmethod
    def _train_biases(backbone: Any) -> None:
        biases = [p for name, p in backbone.named_parameters() if name.endswith("bias")]
        if not biases:
            raise RecipeError([Problem("method.biases", "this model has no biases; leave it out.")])
        for p in biases:
            p.requires_grad_(True)
