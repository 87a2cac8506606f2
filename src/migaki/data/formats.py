"""What a record means: which column is the text, the label, the question, the answer."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from migaki.core.codec import nearest
from migaki.core.parts import Reader
from migaki.core.types import Conversation, Labelled, Turn, shorten
from migaki.data.audio import RECORDINGS
from migaki.data.columns import (
    TEXT_ROLES,
    check_named,
    guess,
    label_of,
    listed,
    need_roles,
    paired,
    sound,
    text_in,
    texts_in,
)
from migaki.data.images import IMAGES
from migaki.data.media import MediaReader
from migaki.data.several import SeveralReader
from migaki.data.spans import SpanReader
from migaki.data.transcripts import TranscriptReader

__all__ = ["READERS", "RecordReader"]

_SPEAKERS = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
"""ShareGPT's words for who speaks, and others that are common."""
_ROLES = ("system", "user", "assistant", "tool")


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
        check_named(names, named, self.roles)
        found = paired(names, guess(names, named, self.roles))
        need_roles(names, found, ("text", "label") if need_target else ("text",))
        return found

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


class _ConversationReader:
    """Conversations in the forms that people keep them in, in this order of preference:

    1. a column of messages: {role, content}, or ShareGPT's {from, value};
    2. Alpaca: instruction, optional input, output;
    3. prompt and completion, under any of their usual names.
    """

    roles: Mapping[str, Sequence[str]] = {
        "messages": ("messages", "conversations", "conversation", "chat", "dialogue"),
        "prompt": ("prompt", "instruction", "question", "query", "user", "input", "質問", "指示"),
        "completion": ("completion", "response", "answer", "output", "assistant", "回答", "応答", "出力"),
        "system": ("system", "system_prompt"),
    }
    targets: Sequence[str] = ("completion",)

    def choose(self, names: Sequence[str], named: Mapping[str, str], need_target: bool = True) -> dict[str, str]:
        check_named(names, named, self.roles)
        if "messages" in named and ("prompt" in named or "completion" in named):
            raise ValueError("data.messages and data.prompt or data.completion are named; keep one of the two ways")
        if "prompt" not in named and "completion" not in named:
            found = guess(names, named, {role: self.roles[role] for role in ("messages", "system")})
            if "messages" in found:
                return found
        found = guess(names, named, {role: self.roles[role] for role in ("prompt", "completion", "system")})
        if "prompt" not in found or (need_target and "completion" not in found):
            what = "the answer" if "prompt" in found else "a conversation"
            raise ValueError(
                f"no column looks like {what}; the columns are {listed(names)}. "
                "Say which: data.messages: COLUMN, or data.prompt: COLUMN and data.completion: COLUMN."
            )
        if found["prompt"].lower() == "instruction":
            # Alpaca: the instruction's own `input` is further text of the question.
            found = guess(names, found, {"input": ("input", "context")})
        return found

    def __call__(self, values: Mapping[str, Any], columns: Mapping[str, str], need_target: bool) -> Conversation:
        system = text_in(values, columns["system"], "system") if "system" in columns else None
        if "messages" in columns:
            turns = _messages(values, columns["messages"])
            if system and turns[0].role == "system":
                raise ValueError(f"messages and column {columns['system']!r} both hold a system prompt; keep one")
        else:
            turns = self._pair(values, columns, need_target)
        if system:
            turns.insert(0, Turn("system", system))
        _check_order(turns, need_target)
        return Conversation(tuple(turns))

    @staticmethod
    def _pair(values: Mapping[str, Any], columns: Mapping[str, str], need_target: bool) -> list[Turn]:
        found = {
            role: text_in(values, columns[role], role) for role in ("prompt", "input", "completion") if role in columns
        }
        for role in ("prompt", "completion") if need_target else ("prompt",):
            if found.get(role) is None:
                raise ValueError(f"the {role} in column {columns[role]!r} is empty; fill it in or remove the row")
        parts = [text for role in ("prompt", "input") if (text := found.get(role))]
        turns = [Turn("user", "\n\n".join(parts))]
        if completion := found.get("completion"):
            turns.append(Turn("assistant", completion))
        return turns


def _messages(values: Mapping[str, Any], column: str) -> list[Turn]:
    messages = values.get(column)
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except (ValueError, RecursionError):
            raise ValueError(
                f"column {column!r} holds {shorten(messages)!r}, which is not a JSON list of messages; correct or "
                "remove the row"
            ) from None
    if not isinstance(messages, list) or not messages:
        raise ValueError(
            f"column {column!r} is {shorten(repr(messages))}, not a list of messages; each is {{role, content}}"
        )
    odd = next((number for number, message in enumerate(messages, 1) if not isinstance(message, Mapping)), None)
    if odd is not None:
        raise ValueError(f"message {odd} is {shorten(repr(messages[odd - 1]))}, not {{role, content}}; correct the row")
    return [_turn(message, number) for number, message in enumerate(messages, 1)]


def _turn(message: Mapping[str, Any], number: int) -> Turn:
    calls = next((key for key in ("tool_calls", "function_call") if message.get(key)), None)
    if calls:
        raise ValueError(f"message {number} holds {calls}, which would be lost; write it as text or remove the row")
    said, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
    role = _SPEAKERS.get(str(said).lower(), str(said).lower())
    if role not in _ROLES:
        raise ValueError(f"message {number} has the role {shorten(str(said))!r}; {nearest(role, _ROLES)}")
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"message {number} ({role}) has no text; fill it in or remove the row")
    return Turn(role, sound(content, f"message {number} ({role})"))


def _check_order(turns: Sequence[Turn], need_target: bool) -> None:
    spoken = [turn.role for turn in turns if turn.role != "system"]
    if any(turn.role == "system" for turn in turns[1:]):
        raise ValueError("a system message stands after the first message; put it first")
    if not spoken or spoken[0] != "user":
        raise ValueError(
            "the first message after the system message is not the user's; a conversation begins with a question, "
            "correct or remove the row"
        )
    if any(pair == ("user", "user") for pair in itertools.pairwise(spoken)):
        raise ValueError("the user speaks twice in a row; join the two messages")
    if need_target and spoken[-1] != "assistant":
        raise ValueError(
            "the last message is not the assistant's, so there is no answer to learn; add it or remove the row"
        )


READERS: dict[str, RecordReader] = {
    "labelled": _LabelledReader(),
    "conversation": _ConversationReader(),
    "multi_labelled": SeveralReader(),
    "tagged": SpanReader(),
    "labelled_image": MediaReader(IMAGES),
    "labelled_recording": MediaReader(RECORDINGS),
    "transcribed": TranscriptReader(RECORDINGS),
}
"""How the rows of each kind of content are read; a task names its kind."""
