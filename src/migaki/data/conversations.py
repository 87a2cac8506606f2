"""Conversations in the forms in which people keep them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from migaki.core.codec import nearest
from migaki.core.types import Conversation, Turn, shorten
from migaki.data.columns import check_named, guess, listed, sound, text_in

__all__ = ["ConversationReader", "check_order", "loaded", "refuse_tools", "turns_in"]

_SPEAKERS = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
"""ShareGPT's words for who speaks, and others that are common."""
_ROLES = ("system", "user", "assistant", "tool")
_TOOL_ROLES = ("function", "function_call", "observation", "tool_call", "tool_response")
_TOOLS = ("tools", "functions")
_INSTRUCTIONS = ("instruction", "指示")


class ConversationReader:
    """Conversations, in this order of preference:

    1. a column of messages: {role, content}, or ShareGPT's {from, value};
    2. Alpaca: instruction, optional input, output, and perhaps a history of earlier [question, answer] pairs;
    3. prompt and completion, under any of their usual names.
    """

    roles: Mapping[str, Sequence[str]] = {
        "messages": ("messages", "conversations", "conversation", "chat", "dialogue"),
        "prompt": ("prompt", "instruction", "question", "query", "user", "input", "質問", "指示"),
        "completion": ("completion", "response", "answer", "output", "assistant", "回答", "応答", "出力"),
        "system": ("system", "system_prompt"),
        "input": ("input", "context", "入力"),
        "history": ("history", "履歴"),
    }
    targets: Sequence[str] = ("completion",)

    def choose(self, names: Sequence[str], named: Mapping[str, str], need_target: bool = True) -> dict[str, str]:
        check_named(names, named, self.roles)
        pair = [role for role in ("prompt", "completion", "input", "history") if role in named]
        if "messages" in named and pair:
            raise ValueError(f"data.messages and data.{pair[0]} are named; keep one of the two ways")
        if not pair:
            found = guess(names, named, self._roles("messages", "system"))
            if "messages" in found:
                return found
        found = guess(names, named, self._roles("prompt", "completion", "system"))
        if "prompt" not in found or (need_target and "completion" not in found):
            what = "the answer" if "prompt" in found else "a conversation"
            raise ValueError(
                f"no column looks like {what}; the columns are {listed(names)}. "
                "Say which: data.messages: COLUMN, or data.prompt: COLUMN and data.completion: COLUMN."
            )
        # Alpaca: the instruction's own `input` is further text of the question. Elsewhere such a column may be anything.
        more = ("input", "history") if found["prompt"].lower() in _INSTRUCTIONS else ("history",)
        return guess(names, found, self._roles(*more))

    def _roles(self, *names: str) -> dict[str, Sequence[str]]:
        return {name: self.roles[name] for name in names}

    def __call__(self, values: Mapping[str, Any], columns: Mapping[str, str], need_target: bool) -> Conversation:
        refuse_tools(values, [name for name in _TOOLS if name not in columns.values()])
        system = text_in(values, columns["system"], "system") if "system" in columns else None
        if "messages" in columns:
            turns = turns_in(values.get(columns["messages"]), f"column {columns['messages']!r}")
            if system and turns[0].role == "system":
                raise ValueError(f"messages and column {columns['system']!r} both hold a system prompt; keep one")
        else:
            history = _history(values, columns["history"]) if "history" in columns else []
            turns = [*history, *_pair(values, columns, need_target)]
        if system:
            turns.insert(0, Turn("system", system))
        check_order(turns, need_target)
        return Conversation(tuple(turns))


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


def _history(values: Mapping[str, Any], column: str) -> list[Turn]:
    """What was said before, as [question, answer] pairs."""
    pairs = loaded(values.get(column), f"column {column!r}", "pairs")
    if pairs is None:
        return []
    if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError(
            f"column {column!r} is {shorten(repr(pairs))}, not a list of earlier [question, answer] pairs; correct the row"
        )
    turns = []
    for number, pair in enumerate(pairs, 1):
        for role, text in zip(("user", "assistant"), pair, strict=True):
            what = f"the {'question' if role == 'user' else 'answer'} of pair {number} in column {column!r}"
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{what} is {shorten(repr(text))}, not a text; fill it in or remove the row")
            turns.append(Turn(role, sound(text, what)))
    return turns


def loaded(value: Any, what: str, kind: str = "messages") -> Any:
    """A cell that holds JSON, also as a text; None where it is empty. Raises ValueError where a text is no JSON."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError(
            f"{what} holds {shorten(value)!r}, which is not a JSON list of {kind}; correct or remove the row"
        ) from None


def turns_in(messages: Any, what: str) -> list[Turn]:
    """The turns of a list of messages, also one that is JSON in a text.

    Args:
        messages: {role, content} or {from, value} each.
        what: the cell, for messages.
    Raises:
        ValueError: it is no such list, or a message says nothing, or calls a tool.
    """
    messages = loaded(messages, what)
    if not isinstance(messages, list) or not messages:
        raise ValueError(
            f"{what} is {shorten(repr(messages))}, not a list of messages; each is {{role, content}}, correct or remove the row"
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
    if role in _TOOL_ROLES:
        raise ValueError(
            f"message {number} has the role {shorten(str(said))!r}: calls of tools are not learned, and without them the answer "
            "would come from nowhere; write what the tool said into the question, or remove the row"
        )
    if role not in _ROLES:
        raise ValueError(
            f"message {number} has the role {shorten(str(said))!r}; {nearest(role, _ROLES)} Correct the row."
        )
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"message {number} ({role}) has no text; fill it in or remove the row")
    return Turn(role, sound(content, f"message {number} ({role})"))


def refuse_tools(values: Mapping[str, Any], columns: Sequence[str] = _TOOLS) -> None:
    """Raises ValueError where a row offers tools to the model in one of the columns."""
    for column in columns:
        tools = values.get(column)
        if isinstance(tools, str):
            tools = tools.strip() not in ("", "[]", "{}", "null")
        if tools:
            raise ValueError(
                f"column {column!r} offers tools to the model, which would be lost: calls of tools are not learned; write the "
                "tools into the system prompt as text, or remove the column"
            )


def check_order(turns: Sequence[Turn], need_target: bool) -> None:
    """Raises ValueError where the turns do not begin with a question, do not alternate, or, if a target is needed, do not
    end with an answer."""
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
