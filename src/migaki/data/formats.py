"""What a record means: which column is the text, the label, the question, the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from migaki.core.parts import Reader
from migaki.core.types import Labelled, Plain, shorten
from migaki.data.audio import RECORDINGS
from migaki.data.columns import (
    TEXT_ROLES,
    check_named,
    guess,
    label_of,
    labelled_columns,
    need_roles,
    text_in,
    texts_in,
)
from migaki.data.conversations import ConversationReader
from migaki.data.images import IMAGES
from migaki.data.media import MediaReader
from migaki.data.preferences import JudgedReader, PreferredReader
from migaki.data.several import SeveralReader
from migaki.data.spans import SpanReader
from migaki.data.transcripts import TranscriptReader

__all__ = ["READERS", "RecordReader"]


class RecordReader(Reader, Protocol):
    """A reader that also knows which columns a row without an answer may lack."""

    targets: Sequence[str]
    """The roles that hold the answer; rows that are only to be predicted may lack their columns."""

    def choose(self, names: Sequence[str], named: Mapping[str, str], need_target: bool = True) -> dict[str, str]: ...


class _LabelledReader:
    """A text, or a pair of texts, and one label."""

    roles: Mapping[str, Sequence[str]] = {
        **TEXT_ROLES,
        "label": (
            *("label", "labels", "category", "class", "intent", "topic", "target", "tag"),
            *("ラベル", "カテゴリ", "カテゴリー", "分類", "種別"),
        ),
    }
    targets: Sequence[str] = ("label",)

    def choose(self, names: Sequence[str], named: Mapping[str, str], need_target: bool = True) -> dict[str, str]:
        return labelled_columns(names, named, self.roles, need_target)

    def __call__(self, values: Mapping[str, Any], columns: Mapping[str, str], need_target: bool) -> Labelled:
        text, pair = texts_in(values, columns)
        label = self._label(values, columns["label"]) if "label" in columns else None
        if label is None and need_target:
            raise ValueError(f"the label in column {columns['label']!r} is empty; fill it in or remove the row")
        return Labelled(text, label, pair)

    @staticmethod
    def _label(values: Mapping[str, Any], column: str) -> str | None:
        label = values.get(column)
        if isinstance(label, list):
            raise ValueError(
                f"the label in column {column!r} is the list {shorten(repr(label))}; several labels for one text are "
                "learned by task: label_text, parts of a text by task: tag_tokens"
            )
        return label_of(label, f"the label in column {column!r}")


class _PlainReader:
    """A text that stands for itself."""

    roles: Mapping[str, Sequence[str]] = {"text": TEXT_ROLES["text"]}
    targets: Sequence[str] = ()

    def choose(self, names: Sequence[str], named: Mapping[str, str], need_target: bool = True) -> dict[str, str]:
        check_named(names, named, self.roles)
        found = guess(names, named, self.roles)
        need_roles(names, found, ("text",))
        return found

    def __call__(self, values: Mapping[str, Any], columns: Mapping[str, str], need_target: bool) -> Plain:
        text = text_in(values, columns["text"], "text")
        if text is None:
            raise ValueError(f"the text in column {columns['text']!r} is empty; fill it in or remove the row")
        return Plain(text)


READERS: dict[str, RecordReader] = {
    "labelled": _LabelledReader(),
    "conversation": ConversationReader(),
    "multi_labelled": SeveralReader(),
    "tagged": SpanReader(),
    "labelled_image": MediaReader(IMAGES),
    "labelled_recording": MediaReader(RECORDINGS),
    "transcribed": TranscriptReader(RECORDINGS),
    "preferred": PreferredReader(),
    "judged": JudgedReader(),
    "plain": _PlainReader(),
}
"""How the rows of each kind of content are read; a task names its kind."""
