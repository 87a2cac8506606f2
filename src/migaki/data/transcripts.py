"""Recordings with what is said in them: a table with a column of paths and one of transcripts, also as a folder beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from migaki.core.types import Transcribed
from migaki.data.columns import text_in
from migaki.data.media import MediaKind, MediaReader

__all__ = ["TranscriptReader"]

_TRANSCRIPT_NAMES = (
    *("transcript", "transcription", "text", "sentence", "normalized_text", "caption"),
    *("書き起こし", "文字起こし", "テキスト", "本文", "文"),
)


class TranscriptReader(MediaReader):
    """A path and a transcript."""

    def __init__(self, kind: MediaKind, beside: Path | None = None) -> None:
        super().__init__(kind, beside)
        self.roles: Mapping[str, Sequence[str]] = {
            "file": self.roles["file"],
            "text": _TRANSCRIPT_NAMES,
            **kind.told,
        }
        self.targets: Sequence[str] = ("text",)

    def __call__(self, values: Mapping[str, Any], columns: Mapping[str, str], need_target: bool) -> Transcribed:
        transcript = text_in(values, columns["text"], "transcript") if "text" in columns else None
        if transcript is None and need_target:
            raise ValueError(
                f"the transcript in column {columns['text']!r} is empty; write down what is said, or remove the row"
            )
        return Transcribed(self.media(values, columns), transcript)
