"""Transfer learning with frozen features: a regularised logistic regression on what the base makes of each text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import PositiveFloat

from migaki.core.parts import Learner, Method, Shape, Task
from migaki.core.types import Dataset
from migaki.methods.needs import labels_missing, require_fit

if TYPE_CHECKING:
    from migaki.models.base import Base

__all__ = ["Probe"]


class Probe(Method):
    """The base stays as it is; only a head is fitted on its features, to the end, by L-BFGS. Takes seconds.

    One regression over all labels, one for each where a text may have several, one over the tags of all tokens where parts
    of a text are named. The features are computed once and kept on disk. Source: Alain & Bengio 2016, arXiv:1610.01644.
    """

    kind: Literal["probe"] = "probe"
    penalty: PositiveFloat | None = None
    """Strength of the L2 penalty against the summed loss of the rows, on features of length sqrt(their number);
    null: the best of seven from 0.03 to 30 on the validation rows, by accuracy, then by loss; where a text may have several
    labels by loss alone."""

    takes_steps: ClassVar[bool] = False
    varies_with_seed: ClassVar[bool] = False
    keeps_base: ClassVar[bool] = True

    def misfit(self, task: Task) -> str | None:
        return labels_missing(self, task)

    def space(self, task: Task, shape: Shape) -> dict[str, Any]:
        return {"method.penalty": {"log": [0.01, 100.0]}}

    def prepare(self, base: Base, task: Task, train: Dataset, seed: int) -> Learner:
        from migaki.methods.probing import ProbeLearner

        require_fit(self, task)
        return ProbeLearner(task.network(base, train, seed), self.penalty)

    def restore(self, base: Base, task: Task, folder: Path) -> Learner:
        from migaki.methods.probing import ProbeLearner

        return ProbeLearner(task.restore(base, folder), self.penalty)
