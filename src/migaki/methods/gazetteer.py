"""A list of names: what was named in the training rows is found again, letter for letter. The floor for tagging."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from migaki.core.parts import Learner, Task
from migaki.core.types import Dataset
from migaki.methods.measuring import Floor
from migaki.methods.needs import require_fit

__all__ = ["Gazetteer"]


class Gazetteer(Floor):
    """What was named in the training rows is looked for in a text, the longest first, and gets its most frequent label.

    Names that mean something else in more than half of the places where they stand are left out.

    What a tuned model adds to it is what it makes of names that it has not seen. Source: the baseline of Tjong Kim Sang & De
    Meulder 2003, arXiv:cs/0306050, section 2.4.
    """

    kind: Literal["gazetteer"] = "gazetteer"

    def baseline_name(self, task: Task) -> str:
        return "nothing is named"

    def misfit(self, task: Task) -> str | None:
        if task.content_kind == "tagged":
            return None
        return f"gazetteer looks up named parts of texts, and rows of {task.kind} have none; use another method."

    def prepare(self, base: None, task: Task, train: Dataset, seed: int) -> Learner:
        from migaki.methods.names import NamesLearner

        require_fit(self, task)
        return NamesLearner(sorted({label for row in train.rows for label in row.content.names()}))

    def restore(self, base: None, task: Task, folder: Path) -> Learner:
        from migaki.methods.names import load_names

        return load_names(folder)
