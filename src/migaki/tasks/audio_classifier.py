"""The network behind `classify_audio`: a model that hears, the mean of what it heard, a linear head."""

# Shapes: B batch, N samples, D hidden, C classes

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from migaki.core.errors import DataError, ModelError
from migaki.core.parts import Example
from migaki.core.store import file_sha256, read_json
from migaki.core.types import Dataset, LabelledMedia, Media, Place, Row
from migaki.data.audio import Waves
from migaki.models.languages import code_of
from migaki.models.speech import Ear, ear_of
from migaki.models.writing import WhisperPen
from migaki.tasks.classifier import STATE_FILE, Classifier, labels_of_rows, start_head
from migaki.tasks.hearing import Hearing, Sound, Varying
from migaki.tasks.lengths import check_seconds
from migaki.training.tokens import Examples

if TYPE_CHECKING:
    from migaki.models.base import Base
    from migaki.tasks.classify_audio import ClassifyAudio

__all__ = ["AudioClassifier", "new_classifier", "restore_classifier"]

_SECONDS_CAP = 30.0
"""What is heard at most of a recording by a model without a limit of its own."""
_FEW = 32
"""So many recordings that are heard once stay in memory; more are kept on disk, like those of a split."""
_KNOWN_SPLITS = 4


class AudioClassifier(Classifier):
    """Pooled features of the backbone through one linear layer to the logits of the label map."""

    def __init__(
        self, base: Base, task: ClassifyAudio, labels: Sequence[str], class_weights: Sequence[float], seed: int = 0
    ) -> None:
        """`seed`: by which recordings are altered."""
        ear = ear_of(base.model, base.processor)
        limit_s = _limit(task, ear, base.reference)
        varying = Varying(task.augment, seed, round(limit_s * ear.rate_hz)) if task.augment else None
        body = Hearing(base.model, ear, task.layers == "all", base.processor.to_json_string(), varying)
        super().__init__(base, labels, class_weights, body.n_features)
        self.backbone = cast(Any, base.model)
        self.processor = base.processor
        self.body, self.layers = body, task.layers
        self._pen: WhisperPen | None = None
        """Where the answer is a language: the half that says it."""
        self.rate_hz, self.limit_s = ear.rate_hz, limit_s
        self.varies = body.varies
        self.allow_truncated = task.allow_truncated
        self._focal_gamma = task.focal_gamma
        self._known: list[tuple[Sequence[Row], Waves]] = []
        self.to(base.model.device)

    def encode(self, dataset: Dataset) -> Sequence[Example]:
        """Rows with their samples and class index.

        Raises:
            DataError: a file has changed since it was looked into, and cannot be read any more.
            TruncationError: more rows than allowed are longer than the limit.
        """
        waves = self._read(dataset.rows, Waves.cached)
        self._known = [*self._known[1 - _KNOWN_SPLITS :], (dataset.rows, waves)]
        seconds = (waves.lengths / self.rate_hz).tolist()
        check_seconds(dataset, seconds, self.limit_s, self.allow_truncated)
        learned = self._learned()
        return Examples(
            len(dataset),
            lambda number: self._sound(dataset.rows[number], waves[number], *learned(dataset.rows[number])),
        )

    def _read(self, rows: Sequence[Row], read: Callable[[Sequence[Media], int], Waves]) -> Waves:
        try:
            return read([row.content.media for row in rows], self.rate_hz)
        except ValueError as error:
            raise DataError(f"{error}. It could be read when the run began.") from None

    def _sound(self, row: Row, wave_N: np.ndarray, labels: tuple[int, ...], weight: float) -> Sound:
        heard_N = wave_N[: round(self.limit_s * self.rate_hz)]
        return Sound(
            row,
            (),
            labels,
            weight,
            targets=self._targets,
            truncated=len(heard_N) < len(wave_N),
            size=self.body.ear.positions(len(heard_N)),
            wave_N=heard_N,
        )

    def inputs(self, rows: Sequence[Row]) -> list[Example]:
        """Recordings as they are predicted, without their labels; one over the limit loses its end."""
        waves = next((waves for known, waves in self._known if known is rows), None)
        if waves is None:
            waves = self._read(rows, Waves.of if len(rows) <= _FEW else Waves.cached)
        return [self._sound(row, waves[number], (), 0.0) for number, row in enumerate(rows)]

    def features(self, examples: Sequence[Example]) -> torch.Tensor:
        """Pooled vectors (B, D); where the answer is a language, those by which it is told."""
        sounds = cast(Sequence[Sound], examples)
        if self._pen is not None:
            return self._pen.at_start(self.body.heard(sounds))
        return self.body.pooled(sounds)  # type: ignore[no-any-return]

    def identity(self, example: Example) -> bytes:
        return cast(Sound, example).key()

    def made_by(self) -> list[str]:
        return [self.processor.to_json_string(), "language" if self._pen else self.layers]

    def varied(self, example: Example, number: int, epoch: int, others: Sequence[Example]) -> Example:
        return self.body.varied(cast(Sound, example), number, epoch)  # type: ignore[no-any-return]

    def row_of(self, place: Place, text: str, label: str | None, pair: str | None = None) -> Row:
        return Row(place, LabelledMedia(Media(text, file_sha256(Path(text))), label))

    @torch.no_grad()
    def answer_by_words(self, base: Base, words: Sequence[str]) -> None:
        """The languages that the words name, as Whisper tells them apart before it writes: of the probabilities of all
        languages those of the labels. Source: Radford et al. 2022, arXiv:2212.04356, section 2.3."""
        pen = self.tell_languages(base)
        self.head.weight.copy_(pen.languages([code_of(text) for text in words]))
        self.head.bias.zero_()

    def tell_languages(self, base: Base) -> WhisperPen:
        """Hear recordings from now on as the half that writes does, with a head that is not set yet."""
        whole = base.whole("speech")
        ear = ear_of(whole.model, whole.processor, whole_window=True)
        self.backbone = cast(Any, whole.model)
        self.body = Hearing(whole.model, ear, False, whole.processor.to_json_string())
        self.varies = self.body.varies
        self.head = torch.nn.Linear(self.body.width, len(self.labels), device=whole.model.device)
        self._pen = WhisperPen(whole.model, whole.tokenizer, whole.reference)
        return self._pen

    def _state(self) -> dict[str, Any]:
        own = {"max_seconds": self.limit_s, "layers": self.layers, "languages": self._pen is not None}
        return {**super()._state(), **own}

    def marked(self, example: Example) -> list[tuple[str, bool]]:
        """The path and how much of the recording is heard, and the label, which is the target."""
        seconds = len(cast(Sound, example).wave_N) / self.rate_hz
        return [
            (f"{example.row.content.text} ({seconds:.2f} s)", False),
            (f" -> {self.labels[example.labels[0]]}", True),
        ]


def _limit(task: ClassifyAudio, ear: Ear, reference: str) -> float:
    """Seconds that are heard of a recording."""
    if task.max_seconds and ear.longest_s and task.max_seconds > ear.longest_s:
        raise ModelError(
            f"task.max_seconds is {task.max_seconds:g}, but {reference} hears at most {ear.longest_s:g} s at once. "
            "Lower it, and cut longer recordings into parts."
        )
    return task.max_seconds or ear.longest_s or _SECONDS_CAP


def new_classifier(base: Base, task: ClassifyAudio, train: Dataset, seed: int) -> AudioClassifier:
    """A classifier whose label map is the sorted labels of the training rows, whatever order they come in."""
    labels, weights = labels_of_rows(train, task.class_weights)
    network = AudioClassifier(base, task, labels, weights, seed)
    start_head(network, task.head, train, seed)
    return network


def restore_classifier(base: Base, task: ClassifyAudio, folder: Path) -> AudioClassifier:
    """The classifier of a saved run: its label map, length limit and head over the given backbone."""
    state = read_json(folder / STATE_FILE)
    task = task.model_copy(update={"max_seconds": state["max_seconds"], "layers": state["layers"]})
    network = AudioClassifier(base, task, state["labels"], state["class_weights"])
    if state.get("languages"):
        network.tell_languages(base)
    network.load_head(folder, state)
    return network
