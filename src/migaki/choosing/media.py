"""Models of images and sounds for a user's rows: what each would cost by each method here, the sensible ones first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING

from migaki.audit.look import Subject
from migaki.choosing.estimate import METHODS, Estimate, Kind
from migaki.choosing.media_cards import MediaCard, MediaTask, media_cards
from migaki.choosing.shapes import Shapes
from migaki.core.types import Row, Splits, Transcribed
from migaki.data.splits import labels_of

if TYPE_CHECKING:
    from migaki.choosing.media_speed import Rate

__all__ = ["MEDIA", "MediaWork", "estimate_media", "known_for", "media_work"]

MEDIA: dict[str, MediaTask] = {
    "labelled_image": "classify_image",
    "labelled_recording": "classify_audio",
    "transcribed": "transcribe",
}
"""From what rows hold to the task that learns from them."""

_FLOAT, _ADAM = 4, 8
"""Bytes of a weight or gradient, and of the two means that AdamW keeps of it."""
_STEP_BYTES = 1 << 30
"""What a step lets a backward pass remember before it is computed in parts."""
_JUDGED_AT_ONCE = 32
_TOKENS_A_CHARACTER = {"ja": 0.88, "en": 0.26}
"""Of Whisper's multilingual tokenizer, measured on the sentences of chatterbot-corpus."""
_CONVOLUTIONS = ("resnet", "efficientnet_lite")
"""Where the factors of LoRA are added to the filters, so that a step costs what one of `full` does."""


@dataclass(frozen=True, slots=True)
class MediaWork:
    """The rows and how they are gone through."""

    task: MediaTask
    train_rows: int
    judged_rows: int
    """Validation rows, judged once an epoch and once before."""
    seconds: float = 0.0
    """Of a recording, on average."""
    tokens: float = 0.0
    """Of a transcript, on average."""
    epochs: int = 3
    batch_size: int = 16
    labels: int = 0


def known_for(task: MediaTask) -> list[MediaCard]:
    """The cards of models that can learn this task."""
    return [card for card in media_cards() if task in card.tasks]


def media_work(splits: Splits, language: str, subject: Subject) -> MediaWork:
    """What these rows are for a model."""
    rows, settings = splits.train.rows, subject.recipe.training if subject.recipe else None
    lengths = [dict(row.content.media.traits).get("seconds") for row in rows]
    said = [len(row.content.transcript or "") for row in rows if isinstance(row.content, Transcribed)]
    return MediaWork(
        MEDIA[subject.content_kind],
        len(rows),
        len(splits.valid),
        mean([float(length) for length in lengths if length is not None] or [0.0]),
        mean(said or [0]) * _TOKENS_A_CHARACTER.get(language, 1.0) + 4 if said else 0.0,
        settings.epochs if settings else 3,
        settings.batch_size if settings else 16,
        0 if said else len(_labels(rows)),
    )


def _labels(rows: Sequence[Row]) -> set[str | None]:
    return {label for row in rows for label in labels_of(row)}


def estimate_media(
    card: MediaCard, work: MediaWork, rate: Rate, process_bytes: int, methods: Sequence[Kind] = METHODS
) -> tuple[Estimate, ...]:
    """Memory and time of one run with the defaults of each method.

    Memory is what the process takes without a model, the float32 weights, for every trained parameter its gradient and
    AdamW's two means, and what the rows that are computed at once leave behind for the backward pass. Time is that of the
    products and of the optimizer; files are read beside it.

    Args:
        card: the model.
        work: the rows.
        rate: of models of its kind.
        process_bytes: of Python with torch and transformers loaded.
        methods: those that make sense for the task.
    """
    shapes = card.shapes(work.task, work.seconds, work.tokens)
    through_s = rate.trained_s if card.family in _CONVOLUTIONS else rate.through_s
    return tuple(_estimate(shapes, method, work, rate, through_s, process_bytes) for method in methods)


def _estimate(
    shapes: Shapes, method: Kind, work: MediaWork, rate: Rate, through_s: float, process_bytes: int
) -> Estimate:
    whole, top = shapes.whole, shapes.top
    head = (shapes.width + 1) * work.labels
    moved = {"probe": 0, "frozen": top.parameters, "lora": whole.low_rank, "full": whole.parameters}[method]
    steps = 0 if method == "probe" else work.epochs * -(-work.train_rows // work.batch_size)
    seen, judged = work.epochs * work.train_rows, (work.epochs + 1) * work.judged_rows
    once = work.train_rows + work.judged_rows
    if method == "probe":
        seconds = once * whole.products * rate.forward_s
    elif method == "frozen":
        seconds = once * (whole.products - top.products) * rate.forward_s
        seconds += top.products * (seen * rate.trained_s + judged * rate.forward_s)
    else:
        each_s = rate.trained_s if method == "full" else through_s
        seconds = whole.products * (seen * each_s + judged * rate.forward_s)
    seconds += steps * (moved + head) * rate.update_s

    remembered = {"frozen": top.numbers, "lora": whole.numbers, "full": whole.numbers}.get(method, 0)
    at_once = min(work.batch_size, max(1, _STEP_BYTES // max(1, _FLOAT * remembered)))
    passing = _JUDGED_AT_ONCE * max(part.numbers for part in (shapes.before, *shapes.blocks))
    state = 0 if method == "probe" else (_FLOAT + _ADAM) * (moved + head)
    activations = rate.bytes_a_number * max(at_once * remembered, passing)
    return Estimate(method, process_bytes + _FLOAT * whole.parameters + state + activations, seconds, moved + head)
