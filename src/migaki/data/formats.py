"""What a record means: which column is the text, the label, the question, the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from migaki.core.codec import nearest
from migaki.core.parts import Reader
from migaki.core.types import Conversation, Labelled, Turn, shorten

__all__ = ["READERS"]

_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
"""ShareGPT's words for who speaks, and others that are common."""
_KNOWN_ROLES = ("system", "user", "assistant", "tool")


def _check_named(names: Sequence[str], named: Mapping[str, str]) -> None:
    for role, column in named.items():
        if column not in names:
            raise ValueError(f"data.{role} names the column {column!r}, which is not there; {nearest(column, names)}")


def _first(names: Sequence[str], candidates: Sequence[str]) -> str | None:
    """The candidate that comes first in `candidates`, compared without case."""
    lower = {name.lower().strip(): name for name in reversed(names)}
    return next((lower[candidate] for candidate in candidates if candidate in lower), None)


class _LabelledReader:
    """A text and one label."""

    roles: ClassVar[Mapping[str, Sequence[str]]] = {
        "text": ("text", "sentence", "content", "message", "utterance", "query", "question", "input", "body", "review", "本文", "テキスト", "文章", "文", "内容", "質問"),
        "label": ("label", "labels", "category", "class", "intent", "topic", "target", "tag", "ラベル", "カテゴリ", "カテゴリー", "分類", "種別"),
    }

    def choose(self, names: Sequence[str], named: Mapping[str, str]) -> dict[str, str]:
        _check_named(names, named)
        found = {}
        for role, candidates in self.roles.items():
            column = named.get(role) or _first([name for name in names if name not in named.values()], candidates)
            if column is None and role == "text":
                raise ValueError(f"no column looks like the text; the columns are {', '.join(map(repr, names))}. Say which: data.text: COLUMN.")
            if column is not None:
                found[role] = column
        return found

    def __call__(self, values: Mapping[str, Any], columns: Mapping[str, str], need_target: bool) -> Labelled:
        if need_target and "label" not in columns:
            raise ValueError(f"no column looks like the label; the columns are {', '.join(map(repr, values))}. Say which: data.label: COLUMN.")
        text = values.get(columns["text"])
        if not isinstance(text, str):
            raise ValueError(f"the text in column {columns['text']!r} is {shorten(repr(text))}, not a text; correct or remove the row")
        if not text.strip():
            raise ValueError(f"the text in column {columns['text']!r} is empty; fill it in or remove the row")
        return Labelled(text, self._label(values, columns, need_target))

    @staticmethod
    def _label(values: Mapping[str, Any], columns: Mapping[str, str], need_target: bool) -> str | None:
        label = values.get(columns["label"]) if "label" in columns else None
        if isinstance(label, bool):
            return str(label).lower()
        if isinstance(label, int) or (isinstance(label, float) and label.is_integer()):
            return str(int(label))
        if isinstance(label, str) and label.strip():
            return label.strip()
        if not need_target and (label is None or label == ""):
            return None
        if label is None or isinstance(label, str):
            raise ValueError(f"the label in column {columns['label']!r} is empty; fill it in or remove the row")
        raise ValueError(f"the label in column {columns['label']!r} is {shorten(repr(label))}; a label is a word or a whole number")


class _ConversationReader:
    """Messages, ShareGPT conversations, prompt and completion, or Alpaca instructions, in this order of preference."""

    roles: ClassVar[Mapping[str, Sequence[str]]] = {
        "messages": ("messages", "conversations", "conversation", "chat", "dialogue"),
        "prompt": ("prompt", "instruction", "question", "query", "user", "input", "質問", "指示"),
        "completion": ("completion", "response", "answer", "output", "assistant", "回答", "応答", "出力"),
        "system": ("system", "system_prompt"),
    }

    def choose(self, names: Sequence[str], named: Mapping[str, str]) -> dict[str, str]:
        _check_named(names, named)
        found = dict(named)
        free = [name for name in names if name not in named.values()]
        if not {"prompt", "completion"} & set(named):
            messages = named.get("messages") or _first(free, self.roles["messages"])
            if messages:
                found["messages"] = messages
                return found
        for role in ("prompt", "completion", "system"):
            column = named.get(role) or _first([name for name in free if name not in found.values()], self.roles[role])
            if column:
                found[role] = column
        if "prompt" not in found:
            raise ValueError(
                f"no column looks like a conversation; the columns are {', '.join(map(repr, names))}. "
                "Say which: data.messages: COLUMN, or data.prompt: COLUMN and data.completion: COLUMN."
            )
        # Alpaca: the instruction's own `input` is further text of the question.
        context = _first([name for name in free if name not in found.values()], ("input", "context"))
        if context and found["prompt"].lower() == "instruction":
            found["input"] = context
        return found

    def __call__(self, values: Mapping[str, Any], columns: Mapping[str, str], need_target: bool) -> Conversation:
        turns = self._messages(values, columns["messages"]) if "messages" in columns else self._pair(values, columns, need_target)
        self._check(turns, need_target)
        return Conversation(tuple(turns))

    @staticmethod
    def _messages(values: Mapping[str, Any], column: str) -> list[Turn]:
        messages = values.get(column)
        if isinstance(messages, str):
            try:
                messages = json.loads(messages)
            except ValueError:
                raise ValueError(f"column {column!r} holds text that is not a JSON list of messages: {shorten(messages)!r}") from None
        if not isinstance(messages, list) or not messages:
            raise ValueError(f"column {column!r} is {shorten(repr(messages))}, not a list of messages; each is {{role, content}}")
        turns = []
        for number, message in enumerate(messages, 1):
            if not isinstance(message, Mapping):
                raise ValueError(f"message {number} is {shorten(repr(message))}, not {{role, content}}")
            role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
            role = _ROLES.get(str(role).lower(), str(role).lower())
            if role not in _KNOWN_ROLES:
                raise ValueError(f"message {number} has the role {shorten(str(message.get('role', message.get('from'))))!r}; {nearest(role, _KNOWN_ROLES)}")
            if not isinstance(content, str) or not content.strip():
                raise ValueError(f"message {number} ({role}) has no text; fill it in or remove the row")
            turns.append(Turn(role, content))
        return turns

    @staticmethod
    def _pair(values: Mapping[str, Any], columns: Mapping[str, str], need_target: bool) -> list[Turn]:
        def text(role: str, needed: bool) -> str:
            value = values.get(columns[role]) if role in columns else None
            if isinstance(value, str) and value.strip():
                return value
            if value is not None and not isinstance(value, str):
                raise ValueError(f"the {role} in column {columns[role]!r} is {shorten(repr(value))}, not a text; correct or remove the row")
            if needed:
                where = f"in column {columns[role]!r} is empty" if role in columns else f"is in no column; say which: data.{role}: COLUMN"
                raise ValueError(f"the {role} {where}; fill it in or remove the row" if role in columns else f"the {role} {where}")
            return ""

        prompt, context = text("prompt", True), text("input", False)
        turns = [Turn("system", system)] if (system := text("system", False)) else []
        turns.append(Turn("user", f"{prompt}\n\n{context}" if context else prompt))
        if completion := text("completion", need_target):
            turns.append(Turn("assistant", completion))
        return turns

    @staticmethod
    def _check(turns: Sequence[Turn], need_target: bool) -> None:
        spoken = [turn.role for turn in turns if turn.role != "system"]
        if any(turn.role == "system" for turn in turns[1:]):
            raise ValueError("a system message stands after the first message; put it first")
        if not spoken or spoken[0] != "user":
            raise ValueError("the first message after the system message is not the user's; a conversation begins with a question")
        if any(a == b == "user" for a, b in zip(spoken, spoken[1:], strict=False)):
            raise ValueError("the user speaks twice in a row; join the two messages")
        if need_target and spoken[-1] != "assistant":
            raise ValueError("the last message is not the assistant's, so there is no answer to learn; add it or remove the row")


READERS: dict[str, Reader] = {"labelled": _LabelledReader(), "conversation": _ConversationReader()}
"""How the rows of each kind of content are read; a task names its kind."""
