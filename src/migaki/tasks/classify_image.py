"""Image classification: one label of a fixed set for each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat

from migaki.core.parts import Task
from migaki.core.types import Dataset, Evaluation, Prediction
from migaki.evaluation import classification, classification_scores
from migaki.tasks.augmentation import Augment

if TYPE_CHECKING:
    from migaki.models.base import Base
    from migaki.tasks.image_classifier import ImageClassifier

__all__ = ["ClassifyImage"]


class ClassifyImage(Task):
    """A linear head on the features of any image model: ResNet, ViT, ConvNeXt, Swin, EfficientNet, CLIP, SigLIP and others.

    Of models that also read, the half that sees is taken.
    Images are prepared as the model's publisher says (preprocessor_config.json). Statistics of batch norms stay as they were
    pretrained.
    """

    kind: Literal["classify_image"] = "classify_image"
    size: Annotated[int, Field(ge=8, le=2048)] | None = None
    """Pixels on each side of what the model sees; null: as its publisher says, often 224. Convolutional models take any:
    of small or simple images a half takes a quarter of the time. Transformers take the one they were trained with."""
    augment: Augment | None = None
    """How images are altered at random in training: {crop: 0.7, flip: true, colour: 0.2}; null: not at all. Methods that
    take no steps see every image as it is."""
    head: Literal["centroid", "random"] = "centroid"
    """How the head starts: from the class means of the untrained features (a nearest-centroid classifier, so training
    begins where the frozen features already are), or from small random numbers."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: a row counts rows / (classes x rows of its class) in the loss, so that rare classes are not drowned."""
    focal_gamma: NonNegativeFloat = 0.0
    """Above 0 a row's loss is multiplied by (1 - p) to this power, p being the probability of its label: what is answered
    well already counts less. 2 is usual. Only methods that take steps have such a loss. Source: Lin et al. 2017,
    arXiv:1708.02002, section 3."""

    content_kind: ClassVar[str] = "labelled_image"
    primary: ClassVar[tuple[str, Literal["max", "min"]]] = ("accuracy", "max")
    base_role: ClassVar[Literal["image"]] = "image"
    one_label: ClassVar[bool] = True
    has_texts: ClassVar[bool] = False
    floor: ClassVar[str] = "pixels"
    compared: ClassVar[tuple[str, ...]] = ("pixels", "zero_shot", "retrieve", "probe", "frozen", "lora", "full")

    def baseline_name(self) -> str:
        return "base, nearest class mean of its frozen features" if self.head == "centroid" else "base, random head"

    def network(self, base: Base, train: Dataset, seed: int) -> ImageClassifier:
        from migaki.tasks.image_classifier import new_classifier

        return new_classifier(base, self, train, seed)

    def restore(self, base: Base, folder: Path) -> ImageClassifier:
        from migaki.tasks.image_classifier import restore_classifier

        return restore_classifier(base, self, folder)

    def nameless(self, base: Base, train: Dataset, words: Callable[[str], str]) -> str | None:
        from migaki.models.meanings import knows_words

        if knows_words(base):
            return None
        return (
            f"{base.reference} sees images and knows no words, so {self.kind} cannot ask it by the names of labels. Take the whole "
            f"of a model of images and texts (CLIP, SigLIP), or use few_shot, retrieve or probe; the floor is {self.floor}."
        )

    def evaluate(self, predictions: Sequence[Prediction], labels: Sequence[str], seed: int) -> Evaluation:
        return classification(predictions, labels, seed)

    def scores(self, predictions: Sequence[Prediction], labels: Sequence[str]) -> dict[str, float]:
        return classification_scores(predictions, labels)
