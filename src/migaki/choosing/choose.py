"""Candidates for a user's rows, the sensible ones first, each with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from migaki.audit.light import text_of
from migaki.audit.look import Subject
from migaki.choosing.cards import ModelCard, model_cards
from migaki.choosing.estimate import METHODS, Estimate, Work, estimate
from migaki.choosing.media import MEDIA
from migaki.choosing.media_cards import MediaCard
from migaki.core.errors import ModelError
from migaki.core.types import Conversation, Row, Splits
from migaki.data.splits import labels_of
from migaki.evaluation.slices import script_of
from migaki.models import Model, locate

__all__ = ["Candidate", "Choice", "choose", "is_at_hand", "language_of", "obstacle", "rank", "reason"]

_CHARACTERS_A_TOKEN = {"ja": 1.6, "en": 4.2}
"""Where no tokenizer is at hand. Measured with those of e5-small on SIB-200 in Japanese and of MiniLM in English."""
_LATIN_SHARE = 0.5
_LIGHTER = {"full": "lora", "lora": "frozen", "frozen": "probe"}
_NAMES = {"ja": "Japanese", "en": "English"}


@dataclass(frozen=True)
class Candidate:
    """One model and what it would cost."""

    card: ModelCard | MediaCard
    at_hand: bool
    estimates: tuple[Estimate, ...]
    fits: Mapping[str, str]
    """Of each method: "" where it fits into memory and time, else what stands in the way and what would help."""
    reason: str
    probed: Mapping[str, float] | None = None
    """Accuracy of a classifier on its frozen features, with its interval, where that was asked for; and the number of its
    group, in which no model is beyond chance worse than the best one."""

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.card.reference,
            "title": self.card.title,
            "licence": self.card.licence,
            "languages": list(self.card.languages),
            "parameters": self.card.parameters,
            "at_hand": self.at_hand,
            "methods": {
                e.method: {**asdict(e), "fits": not self.fits[e.method], "help": self.fits[e.method]}
                for e in self.estimates
            },
            "reason": self.reason,
            "probe": dict(self.probed) if self.probed else None,
        }


@dataclass(frozen=True)
class Choice:
    """All candidates in order, and by what they were ordered."""

    language: str
    candidates: tuple[Candidate, ...]
    minutes: float
    memory_bytes: int

    def as_json(self) -> dict[str, Any]:
        return {
            "language": self.language,
            "minutes": self.minutes,
            "memory_bytes": self.memory_bytes,
            "candidates": [c.as_json() for c in self.candidates],
        }


def language_of(texts: Sequence[str]) -> str:
    """`ja` where most texts hold Japanese letters, else `en`: a rule by script, which cannot tell English from French.

    >>> language_of(["こんにちは", "Windows が起動しない", "hello"])
    'ja'
    """
    scripts = Counter(script_of(text) for text in texts)
    return "ja" if scripts["japanese"] + scripts["mixed"] >= _LATIN_SHARE * len(texts) else "en"


def choose(
    subject: Subject,
    *,
    minutes: float,
    memory_bytes: int,
    cards: Path | None = None,
    probe: bool = False,
) -> Choice:
    """Rank the models of all cards for these rows.

    First come models that speak the language and fit; those at hand before those of the hub, and among each the larger
    ones, which know more, as long as a run stays within the minutes. With `probe` the models at hand are ordered by
    what a classifier on their frozen features reaches.

    Args:
        subject: the rows.
        minutes: that one training may take.
        memory_bytes: that it may use.
        cards: a file or folder with cards of the user.
        probe: whether to measure the models at hand.
    Raises:
        DataError: the rows cannot be used.
        UsageError: the cards cannot be used.
    """
    if subject.content_kind in MEDIA:
        from migaki.choosing.media_choice import choose_media

        return choose_media(subject, minutes=minutes, memory_bytes=memory_bytes, cards=cards, probe=probe)
    # What makes vectors of texts can also give several labels, or name parts.
    task = "generate" if subject.content_kind == "conversation" else "classify_text"
    known = [card for card in model_cards(cards) if task in card.tasks]
    splits = subject.splits()
    language = language_of([_all_said(row) for row in splits.train.rows])
    work = _work(splits, language, subject)
    import transformers.modeling_utils  # noqa: F401 - a training has it loaded, and its memory counts

    from migaki.choosing.speed import measured_speed
    from migaki.training.monitor import present_bytes

    process_bytes = present_bytes()
    found = []
    for card in known:
        speed = measured_speed(card)
        methods = METHODS if task == "classify_text" else METHODS[1:]
        estimates = tuple(estimate(card, method, work, speed, process_bytes) for method in methods)
        fits: dict[str, str] = {e.method: obstacle(e, "shorter texts", minutes, memory_bytes) for e in estimates}
        found.append(Candidate(card, is_at_hand(card.reference), estimates, fits, ""))
    found = [replace(candidate, reason=reason(candidate, language)) for candidate in found]
    found.sort(key=lambda c: rank(c, language))
    if probe and subject.content_kind == "labelled":
        from migaki.choosing.probing import probed

        found = probed(found, splits)
    return Choice(language, tuple(found), minutes, memory_bytes)


def _all_said(row: Row) -> str:
    """All that the model reads of a row."""
    if isinstance(row.content, Conversation):
        return "\n".join(turn.content for turn in row.content.turns)
    return text_of(row)


def _answered(row: Row) -> str:
    """All that the model learns to write of it; of a row with a label nothing."""
    if isinstance(row.content, Conversation):
        return "".join(turn.content for turn in row.content.turns if turn.role == "assistant")
    return ""


def _work(splits: Splits, language: str, subject: Subject) -> Work:
    limit = 1024 if subject.content_kind == "conversation" else 512

    def tokens(text: str) -> int:
        return min(round(len(text) / _CHARACTERS_A_TOKEN[language]) + 2, limit)

    train = [tokens(_all_said(row)) for row in splits.train.rows]
    settings = subject.recipe.training if subject.recipe else None
    return Work(
        train,
        [tokens(_all_said(row)) for row in splits.valid.rows],
        targets=sum(len(_answered(row)) for row in splits.train.rows) / _CHARACTERS_A_TOKEN[language] / len(train),
        epochs=settings.epochs if settings else 3,
        batch_size=settings.batch_size if settings else 16,
        labels=len({label for row in splits.train.rows for label in labels_of(row)}),
    )


def is_at_hand(reference: str) -> bool:
    """Whether a model is on this machine."""
    if reference.startswith("hf:"):
        return False
    try:
        locate(Model(reference=reference))
    except ModelError:
        return False
    return True


def obstacle(found: Estimate, smaller: str, minutes: float, memory_bytes: int) -> str:
    """Why a method does not fit and what would help; "" where it fits. `smaller`: what to ask of the rows, if anything."""
    if found.peak_bytes > memory_bytes:
        lighter = _LIGHTER.get(found.method)
        ways = [f"try {lighter}" if lighter else "take a smaller model", smaller, "or training.batch_size: 8"]
        helped = ", ".join(way for way in ways if way)
        return f"needs {found.peak_bytes / 2**30:.1f} of {memory_bytes / 2**30:.1f} GiB: {helped}"
    if found.seconds > 60 * minutes:
        return f"takes {found.seconds / 60:.0f} of {minutes:.0f} minutes: fewer epochs, fewer rows, or a lighter method"
    return ""


def rank(candidate: Candidate, language: str) -> tuple[Any, ...]:
    """By what candidates are sorted: language, fit, at hand, made for the language, ways that fit, size."""
    card = candidate.card
    fitting = [name for name, stands in candidate.fits.items() if not stands]
    return (
        not card.speaks(language),
        not fitting,
        not candidate.at_hand,
        card.languages[0] != language,
        card.languages[0] not in ("multi", "any"),
        -len(fitting),
        -card.parameters,
    )


def reason(candidate: Candidate, language: str, able: str = "speak") -> str:
    """Why a candidate stands where it does; `able`: what it can or cannot do in the language."""
    card, words = candidate.card, []
    if language in _NAMES:
        words.append(f"{able}s {_NAMES[language]}" if card.speaks(language) else f"does not {able} {_NAMES[language]}")
    fitting = [name for name, stands in candidate.fits.items() if not stands]
    words.append(f"fits by {', '.join(fitting)}" if fitting else "does not fit")
    words.append(
        "at hand" if candidate.at_hand else "to be fetched" if card.reference.startswith("bundled:") else "from the hub"
    )
    return "; ".join(words)
