"""ReFT: low-rank edits of the hidden vectors of the prompt's tokens, while every weight of the base stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from migaki.core.parts import Advice, Learner, Method, Shape, Task
from migaki.core.types import Dataset
from migaki.methods.needs import require_fit

if TYPE_CHECKING:
    from migaki.models.base import Base

__all__ = ["Reft"]


class Reft(Method):
    """Low-rank edits of what comes out of the blocks, at some or all tokens of the prompt; the base stays frozen.

    The prompt is the whole text for a classifier. For a generator it is what stands before the first token that is
    learned, in a conversation of several turns that is before the first learned answer; answers are never edited. Trains a
    tenth or less of what LoRA does. Strong on short answers and style, weaker than LoRA on long chains of reasoning
    (section 4.3 of the paper). The edits depend on the place, so they cannot be merged into weights.
    Source: Wu et al. 2024, arXiv:2404.03592.
    """

    kind: Literal["reft"] = "reft"
    form: Literal["loreft", "noreft", "direft"] = "loreft"
    """loreft: h + R'(W h + b - R h), rows of R orthonormal (eq. 2); noreft: the same with any R (appendix E); direft:
    h + R'(W h + b) with any R, a little quicker and often a little worse (eq. 3)."""
    rank: PositiveInt = 4
    """Width of the edit. Trained parameters grow in proportion: 2 x rank x hidden size + rank for each unit."""
    layers: Literal["all"] | list[NonNegativeInt] = "all"
    """Behind which blocks, counted from 0: all of them, or for example [3, 9, 18, 24]."""
    first: NonNegativeInt | Literal["all"] | None = None
    """How many of the prompt's first tokens are edited; a prompt too short for first and last is divided between them.
    all: each of its tokens, and `last` says nothing then. null: 7, as in the paper, where an answer is written or one token
    stands for the text; all where the text is judged by the mean of its tokens or each token for itself, since what is
    edited at the ends alone hardly moves a mean."""
    last: NonNegativeInt = 7
    """How many of the prompt's last tokens are edited."""
    tied: bool = True
    """One edit a block for both ends of the prompt; false: one for each end, twice the parameters."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the edit's numbers that are dropped in training; the hidden vector itself is never dropped."""
    init: Literal["identity", "paper"] = "identity"
    """identity: training starts from the base, because the first edit is none. paper: W and b start at random, so that the
    model is worse than the base before the first step."""

    default_learning_rate: ClassVar[float] = 9e-4
    keeps_base: ClassVar[bool] = True
    merges: ClassVar[bool] = False

    def misfit(self, task: Task) -> str | None:
        if task.has_texts:
            return None
        return f"reft edits what is made of a prompt's tokens, and rows of {task.kind} are files; use lora, frozen or full."

    def space(self, task: Task, shape: Shape) -> dict[str, Any]:
        upper = list(range(shape.blocks // 2, shape.blocks))
        return {
            **super().space(task, shape),
            "method.rank": [1, 2, 4, 8, 16],
            **({"method.layers": {"choice": ["all", upper]}} if 0 < len(upper) < shape.blocks else {}),
            "method.first": {"choice": ["all", 1, 3, 5, 7, 9]},
            "method.last": [1, 3, 5, 7, 9],
        }

    def advice(self, task: Task, shape: Shape) -> Sequence[Advice]:
        settings = {"training.learning_rate": 9e-4, "training.weight_decay": 0.0, "method.rank": 8}
        return (
            Advice(
                {**settings, "training.warmup": 0.1, "method.first": 7, "method.last": 7, "method.layers": "all"},
                "Wu et al. 2024, arXiv:2404.03592, appendix D",
            ),
        )

    def prepare(self, base: Base, task: Task, train: Dataset, seed: int) -> Learner:
        from migaki.methods.interventions import intervene
        from migaki.methods.tuned import TunedLearner

        require_fit(self, task)
        network = task.network(base, train, seed)
        intervene(network, self, seed)
        return TunedLearner(network, self._saver(base))

    def restore(self, base: Base, task: Task, folder: Path) -> Learner:
        from migaki.methods.interventions import intervene, load_interventions
        from migaki.methods.tuned import TunedLearner

        network = task.restore(base, folder)
        intervene(network, self, seed=0)
        load_interventions(network, folder)
        return TunedLearner(network, self._saver(base))

    def _saver(self, base: Base) -> Callable[[Any, Path], None]:
        from migaki.methods.interventions import save_interventions

        return lambda network, folder: save_interventions(network, base.reference, folder)
