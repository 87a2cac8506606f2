"""Candidates among models of images and of sounds, the sensible ones first, each with its reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from migaki.audit.look import Subject
from migaki.choosing.choose import Candidate, Choice, is_at_hand, language_of, obstacle, rank, reason
from migaki.choosing.estimate import METHODS
from migaki.choosing.media import MEDIA, estimate_media, known_for, media_work
from migaki.core.errors import UsageError
from migaki.core.types import Splits

__all__ = ["choose_media"]

_SMALLER = {"classify_image": "a smaller task.size", "classify_audio": "shorter recordings", "transcribe": ""}


def choose_media(
    subject: Subject, *, minutes: float, memory_bytes: int, cards: Path | None = None, probe: bool = False
) -> Choice:
    """Rank the models of all cards for these files, as `choose` does for texts.

    Raises:
        UsageError: something is asked for that there is for texts alone.
    """
    if cards is not None:
        raise UsageError("--cards describes models of texts; models of images and sounds are those that migaki knows.")
    task = MEDIA[subject.content_kind]
    if probe:
        raise UsageError(f"--probe measures models of texts. For {task} train by method: probe, which takes no longer.")
    splits = subject.splits()
    language = _language(splits)
    work = media_work(splits, language, subject)
    import transformers.modeling_utils  # noqa: F401 - a training has it loaded, and its memory counts

    from migaki.choosing.media_speed import measured_rate
    from migaki.training.monitor import present_bytes

    process_bytes = present_bytes()
    # What writes has no features that a head could be fitted to.
    methods = METHODS[1:] if task == "transcribe" else METHODS
    found = []
    for card in known_for(task):
        estimates = estimate_media(card, work, measured_rate(card.family), process_bytes, methods)
        fits: dict[str, str] = {e.method: obstacle(e, _SMALLER[task], minutes, memory_bytes) for e in estimates}
        candidate = Candidate(card, is_at_hand(card.reference), estimates, fits, "")
        found.append(replace(candidate, reason=reason(candidate, language, "write")))
    found.sort(key=lambda candidate: rank(candidate, language))
    return Choice(language, tuple(found), minutes, memory_bytes)


def _language(splits: Splits) -> str:
    """Of the transcripts; `any` where there are none."""
    said = [text for row in splits.train.rows if (text := getattr(row.content, "transcript", None))]
    return language_of(said) if said else "any"
