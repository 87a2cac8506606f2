"""Words and characters counted, and a logistic regression over them: the floor that a tuned model has to beat."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import PositiveFloat

from migaki.core.parts import Learner, Method, Shape, Task
from migaki.core.types import Dataset
from migaki.methods.needs import labels_missing, require_fit

__all__ = ["Tfidf"]


class Tfidf(Method):
    """TF-IDF of words (one and two in a row) and of characters (one to four in a row), without any pretrained model.

    Characters make it right for Japanese, which has no spaces. Of two texts each is counted, and what they share. Source: Salton & Buckley 1988, doi:10.1016/0306-4573(88)90021-0.
    """

    kind: Literal["tfidf"] = "tfidf"
    penalty: PositiveFloat | None = None
    """Strength of the L2 penalty against the summed loss of the rows; null: the best of five from 0.01 to 1 on the
    validation rows, by accuracy, then by loss."""

    uses_base: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True
    takes_steps: ClassVar[bool] = False
    varies_with_seed: ClassVar[bool] = False
    keeps_base: ClassVar[bool] = False

    def baseline_name(self, task: Task) -> str:
        return "always the shares of the labels"

    def misfit(self, task: Task) -> str | None:
        if not task.has_texts:
            return f"tfidf counts words, and rows of {task.kind} are files; the floor there is method: {task.floor}."
        if task.content_kind == "tagged":
            return f"tfidf looks at whole texts, but {task.kind} names parts of them; the floor there is method: gazetteer."
        return labels_missing(self, task)

    def space(self, task: Task, shape: Shape) -> dict[str, Any]:
        return {"method.penalty": {"log": [0.003, 3.0]}}

    def prepare(self, base: None, task: Task, train: Dataset, seed: int) -> Learner:
        from migaki.methods.ngrams import LabellingNgrams, NgramLearner

        require_fit(self, task)
        kind = LabellingNgrams if task.content_kind == "multi_labelled" else NgramLearner
        return kind.new(task, train, self.penalty)

    def restore(self, base: None, task: Task, folder: Path) -> Learner:
        from migaki.methods.ngrams import load_ngrams

        return load_ngrams(folder)
