"""Text classification: one label of a fixed set for each text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from migaki.core.parts import Learner, Task
from migaki.core.types import Ability, Dataset, Evaluation, Prediction
from migaki.evaluation import classification, classification_scores
from migaki.tasks.abilities import topic_abilities

if TYPE_CHECKING:
    from migaki.models.base import Base
    from migaki.tasks.text_classifier import TextClassifier

__all__ = ["ClassifyText"]


class ClassifyText(Task):
    """A linear head on pooled token vectors of any encoder or decoder."""

    kind: Literal["classify_text"] = "classify_text"
    max_length: PositiveInt | None = None
    """Tokens of a text that the model sees, special tokens included; null: the model's limit, at most 512."""
    allow_truncated: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of rows that may be longer than max_length and lose their end; above it the run does not start."""
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    """How token vectors become one: their mean, the first or the last one; auto: as the model's publisher says, else mean."""
    prompt: str | None = None
    """Put before every text, in training and afterwards; null: what the model's publisher sets as default, often nothing."""
    head: Literal["centroid", "random"] = "centroid"
    """How the head starts: from the class means of the untrained features (a nearest-centroid classifier, so training
    begins where the frozen features already are), or from small random numbers."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: a row counts rows / (classes x rows of its class) in the loss, so that rare classes are not drowned."""
    focal_gamma: NonNegativeFloat = 0.0
    """Above 0 a row's loss is multiplied by (1 - p) to this power, p being the probability of its label: what is answered
    well already counts less, and rows that are hard, often those of rare labels, count more. 2 is usual. Only methods that
    take steps have such a loss. Source: Lin et al. 2017, arXiv:1708.02002, section 3."""

    content_kind: ClassVar[str] = "labelled"
    primary: ClassVar[tuple[str, Literal["max", "min"]]] = ("accuracy", "max")
    base_role: ClassVar[Literal["encoder", "decoder"]] = "encoder"
    general: ClassVar[tuple[str, ...]] = ("topics",)
    one_label: ClassVar[bool] = True
    floor: ClassVar[str] = "tfidf"
    compared: ClassVar[tuple[str, ...]] = (
        *("zero_shot", "tfidf", "retrieve", "probe", "frozen", "lora", "reft", "full"),
    )

    def baseline_name(self) -> str:
        return "base, nearest class mean of its frozen features" if self.head == "centroid" else "base, random head"

    def network(self, base: Base, train: Dataset, seed: int) -> TextClassifier:
        from migaki.tasks.text_classifier import new_classifier

        return new_classifier(base, self, train, seed)

    def restore(self, base: Base, folder: Path) -> TextClassifier:
        from migaki.tasks.text_classifier import restore_classifier

        return restore_classifier(base, self, folder)

    def evaluate(self, predictions: Sequence[Prediction], labels: Sequence[str], seed: int) -> Evaluation:
        return classification(predictions, labels, seed)

    def generality(
        self, learner: Learner, probe: Sequence[Dataset], watch: Callable[[int], None] = lambda _: None
    ) -> list[Ability]:
        return topic_abilities(learner, probe, watch)

    def scores(self, predictions: Sequence[Prediction], labels: Sequence[str]) -> dict[str, float]:
        return classification_scores(predictions, labels)
