"""No training rows at all: the model is asked as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from migaki.core.errors import Problem, RecipeError
from migaki.core.parts import Learner, Method, Task
from migaki.core.types import Dataset
from migaki.methods.needs import require_fit

if TYPE_CHECKING:
    from migaki.models.base import Base

__all__ = ["ZeroShot"]


class ZeroShot(Method):
    """The model as it is: a generator answers the bare prompt, a model of speech writes, an encoder takes the nearest label name.

    What any other method has to beat: the training rows only give the label names, and those are compared with the text. With
    images, where the model reads too (CLIP, SigLIP); probabilities are the softmax over the labels. Of recordings Whisper
    tells the language, where that is what the labels name.
    """

    kind: Literal["zero_shot"] = "zero_shot"
    template: str = "{label}"
    """Encoders and models of images and texts: the words that stand for a label, `This message is about {label}.` or
    `a photo of a {label}` for example; `_` in a name becomes a space."""
    descriptions: dict[str, str] = Field(default={})
    """Words for labels whose names say little ({7: invoices and payments}), or in which languages are not called as Whisper
    does ({deutsch: german}); put in place of the name."""

    takes_steps: ClassVar[bool] = False
    varies_with_seed: ClassVar[bool] = False
    learns_from_rows: ClassVar[bool] = False
    new_knowledge: ClassVar[str] = "word the labels or the prompt anew"
    keeps_base: ClassVar[bool] = True

    @field_validator("template")
    @classmethod
    def _names_the_label(cls, value: str) -> str:
        if "{label}" not in value:
            raise ValueError("the template must hold {label}, where the name goes.")
        return value

    def baseline_name(self, task: Task) -> str:
        return "the model as it is"

    def misfit(self, task: Task) -> str | None:
        if task.content_kind != "tagged":
            return None
        return (
            f"zero_shot asks by the names of labels, but {task.kind} also asks where a part begins and ends; the floor there is "
            "method: gazetteer."
        )

    def refused(self, base: Base, task: Task, train: Dataset) -> str | None:
        return task.nameless(base, train, self.words)

    def prepare(self, base: Base, task: Task, train: Dataset, seed: int) -> Learner:
        from migaki.methods.prompting import AskedLearner, NamedLearner, UntouchedLearner

        require_fit(self, task)
        if found := self.refused(base, task, train):
            raise RecipeError([Problem("method.kind", found)])
        if hasattr(task, "head"):
            # Class means would be computed of all rows, and thrown away.
            task = task.model_copy(update={"head": "random"})
        network = task.network(base, train, seed)
        if task.content_kind == "transcribed":
            return UntouchedLearner(network)
        if task.content_kind == "conversation":
            return AskedLearner(network, None)
        network.answer_by_words(base, [self.words(label) for label in network.labels])
        return NamedLearner(network)

    def restore(self, base: Base, task: Task, folder: Path) -> Learner:
        from migaki.methods.prompting import AskedLearner, NamedLearner, UntouchedLearner

        network = task.restore(base, folder)
        if task.content_kind == "transcribed":
            return UntouchedLearner(network)
        return AskedLearner(network, None) if task.content_kind == "conversation" else NamedLearner(network)

    def words(self, label: str) -> str:
        """What stands for the label.

        >>> ZeroShot(template="about {label}").words("credit_card")
        'about credit card'
        """
        return self.template.replace("{label}", self.descriptions.get(label, label.replace("_", " ")))
