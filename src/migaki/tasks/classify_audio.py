"""Sound classification: one label of a fixed set for each recording."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from migaki.core.parts import Role, Task
from migaki.core.types import Dataset, Evaluation, Prediction
from migaki.evaluation import classification, classification_scores
from migaki.tasks.sound_augmentation import AugmentSound

if TYPE_CHECKING:
    from migaki.models.base import Base
    from migaki.tasks.audio_classifier import AudioClassifier

__all__ = ["ClassifyAudio"]


class ClassifyAudio(Task):
    """A linear head on the mean of what a model hears: Whisper's encoder, wav2vec 2.0, HuBERT, AST.

    Only the frames that exist are computed; a word of one second costs a thirtieth of what Whisper usually does.
    """

    kind: Literal["classify_audio"] = "classify_audio"
    max_seconds: PositiveFloat | None = None
    """Seconds of a recording that the model hears, from its beginning; null: the model's limit (30 s for Whisper, 10.2 s
    for AST), 30 s where it has none."""
    allow_truncated: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of recordings that may be longer than max_seconds and lose their end; above it the run does not start."""
    layers: Literal["all", "last"] = "all"
    """What the head sees. all: the mean of what enters the blocks and of what comes out of each, every one of them brought
    to mean 0 and variance 1, one behind the other, since lower layers know the sound and the voice, higher ones the words;
    last: what comes out of the model alone. Source: Yang et al. 2021, arXiv:2105.01051, section 3 (all layers, though
    added up); Pasad et al. 2021, arXiv:2107.04734 (what each layer knows)."""
    augment: AugmentSound | None = None
    """How recordings are altered at random in training: {noise_db: 15, shift_s: 0.2, time_masks: 2, band_masks: 2}; null: not
    at all. Methods that take no steps hear every recording as it is."""
    head: Literal["centroid", "random"] = "centroid"
    """How the head starts: from the class means of the untrained features (a nearest-centroid classifier, so training
    begins where the frozen features already are), or from small random numbers."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: a row counts rows / (classes x rows of its class) in the loss, so that rare classes are not drowned."""
    focal_gamma: NonNegativeFloat = 0.0
    """Above 0 a row's loss is multiplied by (1 - p) to this power, p being the probability of its label: what is answered
    well already counts less, and rows that are hard, often those of rare labels, count more. 2 is usual. Only methods that
    take steps have such a loss. Source: Lin et al. 2017, arXiv:1708.02002, section 3."""

    content_kind: ClassVar[str] = "labelled_recording"
    primary: ClassVar[tuple[str, Literal["max", "min"]]] = ("accuracy", "max")
    base_role: ClassVar[Role] = "audio"
    one_label: ClassVar[bool] = True
    has_texts: ClassVar[bool] = False
    floor: ClassVar[str] = "spectrum"
    compared: ClassVar[tuple[str, ...]] = ("spectrum", "zero_shot", "retrieve", "probe", "frozen", "lora", "full")

    def baseline_name(self) -> str:
        return "base, nearest class mean of its frozen features" if self.head == "centroid" else "base, random head"

    def network(self, base: Base, train: Dataset, seed: int) -> AudioClassifier:
        from migaki.tasks.audio_classifier import new_classifier

        return new_classifier(base, self, train, seed)

    def restore(self, base: Base, folder: Path) -> AudioClassifier:
        from migaki.tasks.audio_classifier import restore_classifier

        return restore_classifier(base, self, folder)

    def nameless(self, base: Base, train: Dataset, words: Callable[[str], str]) -> str | None:
        from migaki.models.languages import cannot_tell

        labels = sorted({row.content.label for row in train.rows})
        return cannot_tell(base, {label: words(label) for label in labels})

    def evaluate(self, predictions: Sequence[Prediction], labels: Sequence[str], seed: int) -> Evaluation:
        return classification(predictions, labels, seed)

    def scores(self, predictions: Sequence[Prediction], labels: Sequence[str]) -> dict[str, float]:
        return classification_scores(predictions, labels)
