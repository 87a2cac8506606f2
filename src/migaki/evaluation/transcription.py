"""Transcripts judged: errors over words and characters, raw and normalised, where they differ, and what was made up."""

# Shapes: N rows, K figures at once (1, or the resamples)

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from migaki.core.errors import DataError
from migaki.core.types import Evaluation, Measure, Prediction
from migaki.evaluation.intervals import bootstrap, proportion
from migaki.evaluation.slices import error_slices

__all__ = [
    "Alignment",
    "aligned",
    "joined",
    "loops",
    "plain_speech",
    "transcription",
    "transcription_scores",
    "units_of",
]

_WORST = 20
_CONFUSIONS = 50
_FEWEST_REPEATS = 4
_LONGEST_PHRASE = 24
"""Units of a phrase that is looked for when a text goes round in circles."""
_SILENT = 0.98
"""Share of silent windows from which a recording holds nothing that could be transcribed."""

# Written without spaces, so that each character counts as a word: kana, Han, Thai, Lao, Burmese, Khmer.
_UNSPACED = (
    "\u3005-\u3007\u3031-\u3035\u3041-\u309f\u30a1-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U000323af\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
)
_UNIT = re.compile(f"[{_UNSPACED}][\u3099\u309a\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]*|[^\\s{_UNSPACED}]+")
_APOSTROPHES = "'’‘ʼ＇`´"


def plain_speech(text: str) -> str:
    """What was said, without how it is written: NFKC, one case, no punctuation, single spaces.

    >>> plain_speech("Call-Forward on “No Answer”…"), plain_speech("Ｄｏｎ’ｔ！"), plain_speech("はい、①番です。")
    ('call forward on no answer', 'dont', 'はい 1番です')
    """
    bare = "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c not in _APOSTROPHES)
    spoken = "".join(" " if unicodedata.category(c)[0] in "PSC" else c for c in bare)
    return " ".join(spoken.split())


def units_of(text: str) -> list[str]:
    """Words between spaces; where a script has none, as in Japanese, each character stands for a word.

    >>> units_of("press 1 now"), units_of("画面が dark")
    (['press', '1', 'now'], ['画', '面', 'が', 'dark'])
    """
    return _UNIT.findall(text)


def joined(texts: Sequence[str]) -> str:
    """What was said piece after piece, as one text: with a space between pieces, but none where a script has none.

    >>> joined(["press one", "now"]), joined(["画面が", "暗い"]), joined(["", "yes"])
    ('press one now', '画面が暗い', 'yes')
    """
    whole = ""
    for text in filter(None, (text.strip() for text in texts)):
        closed = re.fullmatch(f"[{_UNSPACED}。、！？]{{2}}", whole[-1:] + text[:1])
        whole += text if closed or not whole else f" {text}"
    return whole


@dataclass(frozen=True, slots=True)
class Alignment:
    """A wanted text beside what was written, in the pieces in which they are equal or differ."""

    pieces: tuple[tuple[Literal["equal", "substitute", "delete", "insert"], str, str], ...]
    """What happened, the wanted piece, the written one; one of them empty where something is missing or too much."""
    errors: int
    """Units replaced, left out or put in: the fewest by which one text becomes the other."""
    units: int
    """Of the wanted text."""


def aligned(targets: Sequence[str], outputs: Sequence[str], characters: bool = False) -> list[Alignment]:
    """Each output beside its target, by units as `units_of` cuts them, or by characters, white space aside.

    Source: Levenshtein 1966, by jiwer.

    >>> (one,) = aligned(["press one now"], ["press two"])
    >>> one.errors, one.units, one.pieces[0]
    (2, 3, ('equal', 'press', 'press'))
    """
    import jiwer

    if not targets:
        return []
    wanted, written = ([_cut(text, characters) for text in texts] for texts in (targets, outputs))
    # What is cut already is put in a row with spaces, at which jiwer cuts again: it is told only once what a unit is.
    found = jiwer.process_words([" ".join(a) for a in wanted], [" ".join(b) for b in written])
    return [
        _alignment(chunks, a, b, characters) for chunks, a, b in zip(found.alignments, wanted, written, strict=True)
    ]


def _cut(text: str, characters: bool) -> list[str]:
    return [c for c in text if not c.isspace()] if characters else units_of(text)


def _joined(units: Sequence[str]) -> str:
    """Units as they are written: where a script has no spaces, there are none.

    >>> _joined(["press", "one"]), _joined(["画", "面", "が", "dark"])
    ('press one', '画面が dark')
    """
    spaced = " ".join(units)
    return re.sub(f"(?<=[{_UNSPACED}\u3099\u309a]) (?=[{_UNSPACED}])", "", spaced)


def _alignment(chunks: Sequence[Any], wanted: Sequence[str], written: Sequence[str], characters: bool) -> Alignment:
    joined = "".join if characters else _joined
    pieces, errors = [], 0
    for chunk in chunks:
        a = wanted[chunk.ref_start_idx : chunk.ref_end_idx]
        b = written[chunk.hyp_start_idx : chunk.hyp_end_idx]
        pieces.append((chunk.type, joined(a), joined(b)))
        errors += 0 if chunk.type == "equal" else max(len(a), len(b))
    return Alignment(tuple(pieces), errors, len(wanted))


def loops(text: str) -> str | None:
    """The phrase that a text repeats without end, as models do that have lost their place; None where there is none.

    One unit six times in a row, or several units four times.

    >>> loops("press three three three three three three"), loops("thank you, thank you"), loops("一つ一つ一つ一つ")
    ('three', None, '一つ')
    """
    units = units_of(plain_speech(text))
    for length in range(1, min(_LONGEST_PHRASE, len(units) // _FEWEST_REPEATS) + 1):
        needed = length * ((_FEWEST_REPEATS + 2 if length == 1 else _FEWEST_REPEATS) - 1)
        run = 0
        for at in range(length, len(units)):
            run = run + 1 if units[at] == units[at - length] else 0
            if run >= needed:
                phrase = units[at - length + 1 : at + 1]
                return _joined(phrase)
    return None


def transcription(predictions: Sequence[Prediction], seed: int) -> Evaluation:
    """Metrics on rows with a known transcript.

    `wer` and `cer` are errors per word and per character over all rows, of texts as `plain_speech` has them; `wer_raw` and
    `cer_raw` of texts as they are written, with case and punctuation. They may go above 1 where too much is written.
    `exact_match` is the share of rows without an error, `looped` the share that repeats a phrase without end, `loss` the
    mean over all target tokens (nats). Intervals draw rows, since the words of one recording depend on one another.

    Raises:
        DataError: no rows, a row without a transcript, or no word in any of them.
    """
    judged = _Judged.of(predictions)
    n = len(predictions)
    looped = [_looped(p) for p in predictions]
    metrics = {name: judged.rate(name, seed) for name in ("wer", "cer", "wer_raw", "cer_raw")}
    metrics["exact_match"] = proportion(sum(a.errors == 0 for a in judged.of_name["cer"]), n)
    metrics["looped"] = proportion(sum(map(bool, looped)), n)
    if all(p.loss is not None and p.targets for p in predictions):
        loss_N = np.array([p.loss for p in predictions], dtype=np.float64)
        tokens_N = np.array([p.targets for p in predictions], dtype=np.float64)
        metrics["loss"] = bootstrap(loss_N, seed, lambda weights_KN: (weights_KN @ loss_N) / (weights_KN @ tokens_N))
    words = judged.of_name["wer"]
    parts = [(float(a.errors), float(a.units)) for a in words]
    counted = [replace(p, part=part) for p, part in zip(predictions, parts, strict=True)]
    details = {
        "rows": n,
        "words": sum(a.units for a in words),
        "characters": sum(a.units for a in judged.of_name["cer"]),
        "worst": _worst(predictions, words),
        "confusions": _confusions(words),
        "looped": [{**_at(p), "phrase": phrase} for p, phrase in zip(predictions, looped, strict=True) if phrase],
        "silent": _on_silence(predictions),
        "slices": error_slices(counted, seed),
    }
    return Evaluation(metrics, details, counted)


def transcription_scores(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Errors per word and per character, and the loss, without intervals, for watching a training."""
    judged = _Judged.of(predictions)
    losses = [(p.loss, p.targets) for p in predictions if p.loss is not None]
    tokens = sum(n for _, n in losses)
    found = {name: judged.rates(name, np.ones((1, len(predictions))))[0] for name in ("wer", "cer")}
    return {"loss": sum(loss for loss, _ in losses) / max(tokens, 1), **{k: float(v) for k, v in found.items()}}


@dataclass(frozen=True)
class _Judged:
    """The alignments of all rows under each way of counting."""

    of_name: dict[str, list[Alignment]]

    @classmethod
    def of(cls, predictions: Sequence[Prediction]) -> _Judged:
        if not predictions:
            raise DataError("There are no rows to judge. Give at least one recording with its transcript.")
        missing = next((p for p in predictions if p.target is None), None)
        if missing is not None:
            raise DataError(
                f"{missing.place} has no transcript, so it cannot be judged. Give it one, or remove the row."
            )
        targets, outputs = [p.target or "" for p in predictions], [p.output for p in predictions]
        plain = [plain_speech(text) for text in targets], [plain_speech(text) for text in outputs]
        if not any(plain[0]):
            raise DataError(
                f"No transcript of the {len(predictions)} rows holds a word (first: {predictions[0].place}), so there is "
                "nothing to count errors by. Give rows in which something is said."
            )
        return cls(
            {
                "wer": aligned(*plain),
                "cer": aligned(*plain, characters=True),
                "wer_raw": aligned(targets, outputs),
                "cer_raw": aligned(targets, outputs, characters=True),
            }
        )

    def rates(self, name: str, weights_KN: np.ndarray) -> np.ndarray:
        """(K,) errors per unit; a resample that drew only rows without words has as many as there are errors."""
        errors_N = np.array([a.errors for a in self.of_name[name]], dtype=np.float64)
        units_N = np.array([a.units for a in self.of_name[name]], dtype=np.float64)
        return np.asarray((weights_KN @ errors_N) / np.maximum(weights_KN @ units_N, 1.0))

    def rate(self, name: str, seed: int) -> Measure:
        """With its interval over rows."""
        n = len(self.of_name[name])
        return bootstrap(np.zeros(n), seed, lambda weights_KN: self.rates(name, weights_KN))


def _looped(prediction: Prediction) -> str | None:
    """The phrase that the output goes round in; None also where the wanted text does so itself."""
    return None if loops(prediction.target or "") else loops(prediction.output)


def _at(prediction: Prediction) -> dict[str, Any]:
    return {"source": prediction.place.source, "line": prediction.place.line}


def _worst(predictions: Sequence[Prediction], words: Sequence[Alignment]) -> list[dict[str, Any]]:
    """The rows with most errors, each with both texts in aligned pieces."""
    order = sorted(range(len(words)), key=lambda i: (-words[i].errors, i))
    return [
        {
            **_at(predictions[i]),
            "file": predictions[i].text,
            "errors": words[i].errors,
            "words": words[i].units,
            "pieces": [list(piece) for piece in words[i].pieces],
        }
        for i in order[:_WORST]
        if words[i].errors
    ]


def _confusions(words: Sequence[Alignment]) -> list[dict[str, Any]]:
    """What was written instead of what, the most frequent first; one side empty where a piece is missing or too much."""
    counts = Counter((a, b) for row in words for kind, a, b in row.pieces if kind != "equal")
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"target": a, "output": b, "n": n} for (a, b), n in ordered[:_CONFUSIONS]]


def _on_silence(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Recordings in which nothing is to be heard, and those of them for which words were made up."""
    silent = [p for p in predictions if float(dict(p.traits).get("silence", 0.0)) >= _SILENT]
    invented = [{**_at(p), "output": p.output} for p in silent if plain_speech(p.output)]
    return {"rows": len(silent), "invented": invented}
