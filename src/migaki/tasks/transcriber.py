"""The network behind `transcribe`: a model of speech, one half of which hears and the other writes."""

# Shapes: N samples, P target positions, V vocabulary

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from migaki.core.errors import DataError, ModelError, TruncationError
from migaki.core.parts import Example
from migaki.core.store import read_json
from migaki.core.types import Dataset, Media, Prediction, Row, shorten
from migaki.data.audio import Waves
from migaki.evaluation.transcription import joined
from migaki.models.speech import ear_of
from migaki.models.writing import Written, pen_of
from migaki.tasks.hearing import Hearing, Sound, Varying
from migaki.tasks.pauses import cut_at_pauses
from migaki.training.tokens import Examples

if TYPE_CHECKING:
    from migaki.models.base import Base
    from migaki.tasks.transcribe import Transcribe

__all__ = ["Transcriber", "restore_transcriber"]

_SECONDS_CAP = 30.0
"""What a model without a limit of its own hears at once."""
_FEW = 32
"""So many recordings that are heard once stay in memory; more are kept on disk, like those of a split."""
_KNOWN_SPLITS = 4
_LEARNED = ("train", "replay")
"""Splits that are learned from; the others are only judged."""
_STATE_FILE = "task.json"
_SHOWN = 5


class Transcriber(nn.Module):
    """Loss on the tokens of the transcript only, and greedy transcripts."""

    labels: tuple[str, ...] = ()

    def __init__(self, base: Base, task: Transcribe, seed: int = 0) -> None:
        """`seed`: by which recordings are altered."""
        super().__init__()
        self.backbone = cast(Any, base.model)
        self.tokenizer, self.processor = base.tokenizer, base.processor
        self.fingerprint = base.fingerprint
        ear = ear_of(base.model, base.processor, whole_window=True)
        self.rate_hz, self.limit_s = ear.rate_hz, ear.longest_s or _SECONDS_CAP
        longest = round(self.limit_s * self.rate_hz)
        varying = Varying(task.augment, seed, longest) if task.augment else None
        self.body = Hearing(base.model, ear, False, base.processor.to_json_string(), varying)
        self.varies = self.body.varies
        self.pen = pen_of(
            base.model, base.tokenizer, base.reference, task.language, task.translate, task.max_new_tokens
        )
        self._known: list[tuple[Sequence[Row], Waves]] = []

    @property
    def device(self) -> torch.device:
        return self.backbone.device  # type: ignore[no-any-return]

    # From rows to what is computed

    def encode(self, dataset: Dataset) -> Sequence[Example]:
        """Rows with their samples and the tokens that are learned of them; of those that are only judged a recording may
        be longer than the model hears at once, and has none then.

        Raises:
            DataError: a transcript cannot be written by the model, or a file cannot be read any more.
            TruncationError: a recording or a transcript is too long to be learned from.
        """
        waves = self._read(dataset.rows, Waves.cached)
        self._known = [*self._known[1 - _KNOWN_SPLITS :], (dataset.rows, waves)]
        targets = self._targets(dataset)
        if dataset.name in _LEARNED:
            self._check_lengths(dataset, targets, waves.lengths)

        def example(number: int) -> Example:
            pieces = self._pieces(dataset.rows[number], waves[number], targets[number])
            return pieces[0]

        return Examples(len(dataset), example)

    def _read(self, rows: Sequence[Row], read: Callable[[Sequence[Media], int], Waves]) -> Waves:
        try:
            return read([row.content.media for row in rows], self.rate_hz)
        except ValueError as error:
            raise DataError(f"{error}. It could be read when the run began.") from None

    def _targets(self, dataset: Dataset) -> list[tuple[int, ...]]:
        found, faults = [], []
        for row in dataset.rows:
            try:
                found.append(self.pen.targets(row.content.transcript))
            except ValueError as error:
                faults.append(f"{row.place} ({shorten(row.content.transcript, 40)!r}) {error}")
        if faults:
            raise DataError(
                f"{len(faults)} of {len(dataset)} {dataset.name} transcripts cannot be written by this model: "
                f"{'; '.join(faults[:_SHOWN])}."
            )
        return found

    def _check_lengths(self, dataset: Dataset, targets: Sequence[Sequence[int]], lengths: np.ndarray) -> None:
        n, seconds = len(dataset), (lengths / self.rate_hz).tolist()
        longer = [f"{row.place} ({s:.1f} s)" for row, s in zip(dataset.rows, seconds, strict=True) if s > self.limit_s]
        if longer:
            raise TruncationError(
                f"{len(longer)} of {n} {dataset.name} recordings are longer than {self.limit_s:g} s, what the model hears at "
                f"once, and nothing says which words stand where (first: {', '.join(longer[:_SHOWN])}). Cut them at pauses, "
                "each part with its own transcript, or leave them out; longer ones can only be judged and predicted."
            )
        misfits = [
            f"{row.place} {reason}"
            for row, ids, samples in zip(dataset.rows, targets, lengths.tolist(), strict=True)
            if (reason := self.pen.misfit(ids, self.body.ear.positions(samples)))
        ]
        if misfits:
            raise TruncationError(
                f"{len(misfits)} of {n} {dataset.name} transcripts are too long to be learned: {'; '.join(misfits[:_SHOWN])}. "
                "Check that they belong to these recordings, cut the recordings, or leave them out."
            )

    def _pieces(self, row: Row, wave_N: np.ndarray, targets: Sequence[int] | None) -> list[Sound]:
        """The recording as it is heard: whole, or in pieces of which no targets are known."""
        pieces = cut_at_pauses(wave_N, self.rate_hz, self.limit_s)
        positions = [self.body.ear.positions(at.stop - at.start) for at in pieces]
        whole = len(pieces) == 1 and targets is not None and not self.pen.misfit(targets, positions[0])
        labels = tuple(targets) if whole and targets else ()
        return [
            Sound(
                row,
                (),
                labels,
                float(len(labels)),
                targets=len(labels),
                size=size,
                wave_N=wave_N[at],
                start=at.start,
            )
            for at, size in zip(pieces, positions, strict=True)
        ]

    def _pieces_of_each(self, rows: Sequence[Row]) -> list[list[Sound]]:
        waves = next((waves for known, waves in self._known if known is rows), None)
        if waves is None:
            waves = self._read(rows, Waves.of if len(rows) <= _FEW else Waves.cached)
        return [self._pieces(row, waves[number], self._wanted(row)) for number, row in enumerate(rows)]

    def _wanted(self, row: Row) -> tuple[int, ...] | None:
        """The targets of a row that is judged; None where its transcript is not known, or is none that could be written."""
        try:
            return None if row.content.transcript is None else self.pen.targets(row.content.transcript)
        except ValueError:
            return None

    def inputs(self, rows: Sequence[Row]) -> list[Example]:
        """All pieces of the recordings as they are predicted, those that are heard whole with their targets."""
        return [piece for pieces in self._pieces_of_each(rows) for piece in pieces]

    def varied(self, example: Example, number: int, epoch: int, others: Sequence[Example]) -> Example:
        return self.body.varied(cast(Sound, example), number, epoch)

    def mask_id(self) -> int | None:
        """Nothing of a recording is hidden behind a token."""
        return None

    # What is computed

    def forward(self, examples: Sequence[Example]) -> torch.Tensor:
        """What is said at each place that is learned, row after row, (P, V)."""
        return self.pen.logits(self.body.heard(cast(Sequence[Sound], examples)), [e.labels for e in examples])

    def loss(self, examples: Sequence[Example], label_smoothing: float) -> torch.Tensor:
        """Sum over all tokens of the transcripts, the one that ends them among them, scalar."""
        heard = self.body.heard(cast(Sequence[Sound], examples))
        return self.pen.loss(heard, [e.labels for e in examples], label_smoothing)

    @torch.no_grad()
    def predict(
        self, rows: Sequence[Row], *, answers: int | None = None, watch: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """A transcript of every row, whatever `answers` says, for by their errors the best model is chosen; and the loss
        of each row that is heard whole and has a transcript."""
        pieces_of = self._pieces_of_each(rows)
        pieces = [piece for of_row in pieces_of for piece in of_row]
        written: list[Written | None] = [None] * len(pieces)
        losses: dict[int, float] = {}
        done = 0
        for group in self.body.groups_without_gradient(pieces):
            heard = self.body.heard([pieces[i] for i in group])
            for i, text in zip(group, self.pen.write(heard), strict=True):
                written[i] = text
            judged = [at for at, i in enumerate(group) if pieces[i].labels]
            if judged:
                found = self.pen.losses(heard.rows(judged), [pieces[group[at]].labels for at in judged])
                losses.update({group[at]: loss for at, loss in zip(judged, found, strict=True)})
            done += len(group)
            watch(done * len(rows) // len(pieces))
        answered, at = [], 0
        for row, of_row in zip(rows, pieces_of, strict=True):
            texts = [text for text in written[at : at + len(of_row)] if text is not None]
            answered.append(_prediction(row, texts, losses.get(at), of_row[0].targets))
            at += len(of_row)
        return answered

    # What is told and kept

    def save(self, folder: Path) -> None:
        """What stands before every transcript, so that another tokenizer is refused."""
        state = {"prompt": self.pen.prompt()}
        (folder / _STATE_FILE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")

    def marked(self, example: Example) -> list[tuple[str, bool]]:
        """The path, how much of the recording is heard, what stands before the transcript; and the transcript, the target."""
        seconds = len(cast(Sound, example).wave_N) / self.rate_hz
        prompt, labels = self.tokenizer.decode(self.pen.prompt()), list(example.labels)
        text = self.tokenizer.decode(labels) if self.pen.prompt() else example.row.content.transcript
        return [(f"{example.row.content.text} ({seconds:.2f} s) -> {prompt}", False), (text or "", True)]

    def describe(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Seconds of a split."""
        return {"seconds": round(sum(len(cast(Sound, e).wave_N) for e in examples) / self.rate_hz, 2)}


def _prediction(row: Row, texts: Sequence[Written], loss: float | None, targets: int) -> Prediction:
    chosen = Written(
        joined([one.text for one in texts]),
        sum(one.log_probability for one in texts),
        sum(one.choices for one in texts),
        all(one.stopped for one in texts),
    )
    return Prediction(
        place=row.place,
        output=chosen.text,
        target=row.content.transcript,
        confidence=chosen.confidence,
        loss=loss,
        targets=targets if loss is not None else 0,
        stopped=chosen.stopped,
        text=row.content.text,
        traits=row.content.media.traits,
    )


def restore_transcriber(base: Base, task: Transcribe, folder: Path) -> Transcriber:
    """The transcriber of a saved run.

    Raises:
        ModelError: what stands before a transcript is not what the model was trained with.
    """
    network = Transcriber(base, task)
    if read_json(folder / _STATE_FILE)["prompt"] != network.pen.prompt():
        raise ModelError(
            f"The tokenizer of {base.reference} is not the one this run was trained with, so transcripts would be wrong. Use "
            "the model's original tokenizer files, or train again."
        )
    return network
