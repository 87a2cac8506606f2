"""Words and characters counted, and a logistic regression over them: the floor that a tuned model has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveFloat

from migaki.core.parts import Shape, Task
from migaki.methods.measuring import Measuring
from migaki.methods.needs import labels_missing

if TYPE_CHECKING:
    from migaki.methods.ngrams import NgramLearner

__all__ = ["Tfidf"]


class Tfidf(Measuring):
    """TF-IDF of words (one and two in a row) and of characters (one to four in a row), without any pretrained model.

    Characters make it right for Japanese, which has no spaces. Of two texts each is counted, and what they share. Source: Salton & Buckley 1988, doi:10.1016/0306-4573(88)90021-0.
    """

    kind: Literal["tfidf"] = "tfidf"
    penalty: PositiveFloat | None = None
    """Strength of the L2 penalty against the summed loss of the rows; null: the best of five from 0.01 to 1 on the
    validation rows, by accuracy, then by loss."""

    def misfit(self, task: Task) -> str | None:
        if not task.has_texts:
            return f"tfidf counts words, and rows of {task.kind} are files; the floor there is method: {task.floor}."
        if task.content_kind == "tagged":
            return f"tfidf looks at whole texts, but {task.kind} names parts of them; the floor there is method: gazetteer."
        return labels_missing(self, task)

    def space(self, task: Task, shape: Shape) -> dict[str, Any]:
        return {"method.penalty": {"log": [0.003, 3.0]}}

    def learner(self, task: Task) -> type[NgramLearner]:
        from migaki.methods.ngrams import LabellingNgrams, NgramLearner

        return LabellingNgrams if task.content_kind == "multi_labelled" else NgramLearner
