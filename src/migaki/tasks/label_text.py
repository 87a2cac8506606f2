"""Labelling: any number of labels of a fixed set for each text (multi-label classification)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from migaki.core.parts import Learner, Task
from migaki.core.types import Ability, Dataset, Evaluation, Prediction, Row
from migaki.evaluation import best_threshold, labelling, labelling_scores
from migaki.tasks.abilities import topic_abilities

if TYPE_CHECKING:
    from migaki.models.base import Base
    from migaki.tasks.text_labeller import TextLabeller

__all__ = ["LabelText"]


class LabelText(Task):
    """A linear head on pooled token vectors, and a yes or no for every label: none, one or several may be right.

    Also for two texts that are labelled together. The loss is the mean binary cross-entropy over rows and labels.
    """

    kind: Literal["label_text"] = "label_text"
    max_length: PositiveInt | None = None
    """Tokens of a text that the model sees, special tokens included; null: the model's limit, at most 512."""
    allow_truncated: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of rows that may be longer than max_length and lose their end; above it the run does not start."""
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    """How token vectors become one: their mean, the first or the last one; auto: as the model's publisher says, else mean."""
    prompt: str | None = None
    """Put before every text, in training and afterwards; null: what the model's publisher sets as default, often nothing."""
    head: Literal["centroid", "random"] = "centroid"
    """How the head starts: for each label by the nearer of two means of the untrained features, of the rows with it and of
    those without; or from small random numbers."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: in the loss a row with a label counts as much more as there are rows without it, label by label."""
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """A label is given where its probability is above this; null: the threshold with the highest micro F1 on the validation
    rows, one for all labels, found when training has ended."""

    content_kind: ClassVar[str] = "multi_labelled"
    primary: ClassVar[tuple[str, Literal["max", "min"]]] = ("f1_micro", "max")
    base_role: ClassVar[Literal["encoder", "decoder"]] = "encoder"
    general: ClassVar[tuple[str, ...]] = ("topics",)
    floor: ClassVar[str] = "tfidf"
    compared: ClassVar[tuple[str, ...]] = ("zero_shot", "tfidf", "probe", "frozen", "lora", "reft", "full")

    def baseline_name(self) -> str:
        return "base, nearer of two means for each label" if self.head == "centroid" else "base, random head"

    def network(self, base: Base, train: Dataset, seed: int) -> TextLabeller:
        from migaki.tasks.text_labeller import new_labeller

        return new_labeller(base, self, train, seed)

    def restore(self, base: Base, folder: Path) -> TextLabeller:
        from migaki.tasks.text_labeller import restore_labeller

        return restore_labeller(base, self, folder)

    def decide(
        self, learner: Learner, valid: Sequence[Row], watch: Callable[[int], None] = lambda _: None
    ) -> dict[str, float]:
        holder: Any = getattr(learner, "network", learner)
        found = self.threshold
        if found is None:
            found = best_threshold(learner.predict(valid, answers=0, watch=watch), learner.labels)
        holder.threshold = found
        return {"threshold": found}

    def written(self, prediction: Prediction) -> dict[str, Any]:
        return {"prediction": list(prediction.labels), "confidence": prediction.confidence}

    def evaluate(self, predictions: Sequence[Prediction], labels: Sequence[str], seed: int) -> Evaluation:
        return labelling(predictions, labels, seed)

    def generality(
        self, learner: Learner, probe: Sequence[Dataset], watch: Callable[[int], None] = lambda _: None
    ) -> list[Ability]:
        return topic_abilities(learner, probe, watch)

    def scores(self, predictions: Sequence[Prediction], labels: Sequence[str]) -> dict[str, float]:
        return labelling_scores(predictions, labels, self.threshold)
