"""Speech recognition: what is said in a recording, as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import PositiveInt

from migaki.core.parts import Learner, Role, Task
from migaki.core.types import Ability, Dataset, Evaluation, Prediction
from migaki.evaluation import transcription, transcription_scores
from migaki.evaluation.transcription import loops
from migaki.tasks.abilities import answer_abilities
from migaki.tasks.sound_augmentation import AugmentSound

if TYPE_CHECKING:
    from migaki.models.base import Base
    from migaki.tasks.transcriber import Transcriber

__all__ = ["Transcribe"]


class Transcribe(Task):
    """Whisper, which writes token after token, and models trained by CTC (wav2vec 2.0, HuBERT), which write letters.

    The best model is chosen by errors per word, where each character of a script without spaces counts as a word, so that
    for Japanese it is the character error rate. Recordings longer than the model hears at once (Whisper 30 s) are judged
    and predicted in pieces cut at pauses; to be learned from they have to be cut with their transcripts.
    """

    kind: Literal["transcribe"] = "transcribe"
    language: str | None = None
    """Code of the language that is spoken (en, ja), for models of several languages; null: the model tells it by itself of
    each recording, which may go wrong for short ones."""
    translate: bool = False
    """Write in English whatever language is spoken, which Whisper can; transcripts have to be English then."""
    max_new_tokens: PositiveInt | None = 224
    """The longest transcript that is written of 30 seconds, in tokens; a model that goes round in circles stops there. null:
    as many as the model can. Models that write letters have no such limit. Source: arXiv:2212.04356, whose program takes
    half of its 448 positions."""
    augment: AugmentSound | None = None
    """How recordings are altered at random in training: {noise_db: 15, time_masks: 2, band_masks: 2}; null: not at all."""

    content_kind: ClassVar[str] = "transcribed"
    primary: ClassVar[tuple[str, Literal["max", "min"]]] = ("wer", "min")
    base_role: ClassVar[Role] = "speech"
    has_texts: ClassVar[bool] = False
    compared: ClassVar[tuple[str, ...]] = ("zero_shot", "frozen", "lora", "full")

    def written(self, prediction: Prediction) -> dict[str, Any]:
        return {
            "prediction": prediction.output,
            "confidence": prediction.confidence,
            "repeated": loops(prediction.output) or "",
        }

    def network(self, base: Base, train: Dataset, seed: int) -> Transcriber:
        from migaki.tasks.transcriber import Transcriber

        return Transcriber(base, self, seed)

    def restore(self, base: Base, folder: Path) -> Transcriber:
        from migaki.tasks.transcriber import restore_transcriber

        return restore_transcriber(base, self, folder)

    def evaluate(self, predictions: Sequence[Prediction], labels: Sequence[str], seed: int) -> Evaluation:
        return transcription(predictions, seed)

    def scores(self, predictions: Sequence[Prediction], labels: Sequence[str]) -> dict[str, float]:
        return transcription_scores(predictions)

    def generality(
        self, learner: Learner, probe: Sequence[Dataset], watch: Callable[[int], None] = lambda _: None
    ) -> list[Ability]:
        return answer_abilities(learner, probe, watch)
