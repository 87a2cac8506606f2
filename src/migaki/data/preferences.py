"""Answers that somebody has compared, or found good or bad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from migaki.core.types import Finding, Judged, Preferred, Record, Turn, shorten
from migaki.data.columns import check_named, guess, listed, need_roles, text_in
from migaki.data.conversations import check_order, loaded, refuse_tools, turns_in

__all__ = ["JudgedReader", "PreferredReader"]

_EXAMPLES = 5
_YES, _NO = ("true", "1", "yes", "good"), ("false", "0", "no", "bad")


class PreferredReader:
    """A question with a better and a worse answer, in these forms:

    1. `prompt`, `chosen` and `rejected`, each a text or a list of messages;
    2. `chosen` and `rejected` alone, as whole conversations with the same beginning;
    3. OpenAI's `input` ({"messages": [...]}), `preferred_output` and `non_preferred_output`.
    """

    roles: Mapping[str, Sequence[str]] = {
        "messages": ("messages", "conversations", "conversation"),
        "prompt": ("prompt", "input", "question", "instruction", "query", "質問", "指示"),
        "chosen": ("chosen", "preferred_output", "preferred", "chosen_response"),
        "rejected": ("rejected", "non_preferred_output", "non_preferred", "rejected_response"),
        "system": ("system", "system_prompt"),
    }
    targets: Sequence[str] = ("chosen", "rejected")

    def choose(self, names: Sequence[str], named: Mapping[str, str], need_target: bool = True) -> dict[str, str]:
        check_named(names, named, self.roles)
        if "messages" in named and "prompt" in named:
            raise ValueError("data.messages and data.prompt are named; keep one of the two ways")
        asked = {"messages": self.roles["messages"]} if "prompt" not in named else {}
        found = guess(names, named, asked)
        rest = {role: usual for role, usual in self.roles.items() if role not in ("messages", "prompt")}
        if "messages" not in found:
            rest["prompt"] = self.roles["prompt"]
        found = guess(names, found, rest)
        need_roles(names, found, self.targets if need_target else ())
        if not need_target and not {"messages", "prompt"} & found.keys():
            raise ValueError(
                f"no column looks like the prompt; the columns are {listed(names)}. Say which: data.prompt."
            )
        return found

    def __call__(self, values: Mapping[str, Any], columns: Mapping[str, str], need_target: bool) -> Preferred:
        prompt = _prompt(values, columns)
        if not need_target:
            check_order(prompt, need_target=False)
            return Preferred(tuple(prompt), "", "")
        (before, chosen), (other, rejected) = (_answer(values, columns[role], role) for role in self.targets)
        if before != other:
            raise ValueError(
                f"columns {columns['chosen']!r} and {columns['rejected']!r} hold conversations with different questions, so their "
                "answers cannot be compared; correct or remove the row"
            )
        return Preferred(_asked(prompt, before, columns), chosen, rejected)

    def remarks(self, records: Sequence[Record], columns: Mapping[str, str]) -> list[Finding]:
        """Pairs of equal answers, of which none can be better."""
        equal = [r for r in records if r.values.get(columns["chosen"]) == r.values.get(columns["rejected"])]
        if not equal:
            return []
        message = (
            f"in {len(equal)} of {len(records)} rows the better answer is the worse one, so there is nothing to learn"
        )
        places = tuple(str(record.place) for record in equal[:_EXAMPLES])
        return [Finding("warning", message, len(equal), places, "Remove these rows")]


class JudgedReader:
    """A question with one answer and whether it is a good one (KTO): `prompt` and `completion`, each a text or a list of
    messages, or `messages` that end with the answer, and a `label` that is true or false."""

    roles: Mapping[str, Sequence[str]] = {
        "messages": ("messages", "conversations", "conversation"),
        "prompt": ("prompt", "instruction", "question", "query", "input", "質問", "指示"),
        "completion": ("completion", "response", "answer", "output", "回答", "応答", "出力"),
        "label": ("label", "kto_tag", "good", "desirable", "thumbs_up"),
        "system": ("system", "system_prompt"),
    }
    targets: Sequence[str] = ("label",)

    def choose(self, names: Sequence[str], named: Mapping[str, str], need_target: bool = True) -> dict[str, str]:
        check_named(names, named, self.roles)
        pair = [role for role in ("prompt", "completion") if role in named]
        if "messages" in named and pair:
            raise ValueError(f"data.messages and data.{pair[0]} are named; keep one of the two ways")
        found = guess(names, named, {} if pair else {"messages": self.roles["messages"]})
        asked = ("prompt", "completion") if "messages" not in found else ()
        found = guess(names, found, {role: self.roles[role] for role in (*asked, "label", "system")})
        # A row without its verdict would be read as a bad answer.
        need_roles(names, found, (*asked, "label"))
        return found

    def __call__(self, values: Mapping[str, Any], columns: Mapping[str, str], need_target: bool) -> Judged:
        good = _verdict(values.get(columns["label"]), f"the label in column {columns['label']!r}")
        prompt = _prompt(values, columns)
        if "messages" not in columns:
            before, answer = _answer(values, columns["completion"], "completion")
            if before:
                raise ValueError(
                    f"column {columns['completion']!r} holds more than the answer; put what was said before into the prompt"
                )
            prompt.append(Turn("assistant", answer))
        check_order(prompt, need_target=True)
        return Judged(tuple(prompt[:-1]), prompt[-1].content, good)


def _verdict(value: Any, what: str) -> bool:
    word = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip().lower()
    if word not in (*_YES, *_NO):
        raise ValueError(
            f"{what} is {shorten(repr(value))}; it has to say whether the answer is good: true or false, correct or remove the row"
        )
    return word in _YES


def _prompt(values: Mapping[str, Any], columns: Mapping[str, str]) -> list[Turn]:
    """What is said before the answer; nothing where only the answers' own conversations say it."""
    refuse_tools(values)
    turns: list[Turn] = []
    column = columns.get("messages", columns.get("prompt"))
    if column is not None:
        value = values.get(column)
        if "messages" not in columns and isinstance(value, str):
            text = text_in(values, column, "prompt")
            if text is None:
                raise ValueError(f"the prompt in column {column!r} is empty; fill it in or remove the row")
            turns = [Turn("user", text)]
        else:
            turns = turns_in(_unwrapped(value), f"column {column!r}")
    system = text_in(values, columns["system"], "system") if "system" in columns else None
    if system and turns and turns[0].role == "system":
        raise ValueError(f"the prompt and column {columns['system']!r} both hold a system prompt; keep one")
    return [Turn("system", system), *turns] if system else turns


def _unwrapped(value: Any) -> Any:
    """OpenAI keeps the messages of a question beside the tools that were offered with it."""
    if isinstance(value, Mapping) and "messages" in value:
        refuse_tools(value)
        return value["messages"]
    return value


def _answer(values: Mapping[str, Any], column: str, role: str) -> tuple[tuple[Turn, ...], str]:
    """What an answer's own conversation says before it, and the answer."""
    value = values.get(column)
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        value = loaded(value, f"column {column!r}")
    if not isinstance(value, list):
        text = text_in(values, column, role)
        if text is None:
            raise ValueError(f"the {role} in column {column!r} is empty; fill it in or remove the row")
        return (), text
    turns = turns_in(value, f"column {column!r}")
    if turns[-1].role != "assistant":
        raise ValueError(f"column {column!r} does not end with the assistant's answer; add it or remove the row")
    return tuple(turns[:-1]), turns[-1].content


def _asked(prompt: list[Turn], before: tuple[Turn, ...], columns: Mapping[str, str]) -> tuple[Turn, ...]:
    """The one question of a row, which may stand in its prompt, in the conversations of its answers, or in both."""
    (system, asked), (other_system, begun) = _parted(prompt), _parted(before)
    if system and other_system and system != other_system:
        raise ValueError("the prompt and the answers' conversations have different system prompts; keep one")
    if asked and begun and begun[-len(asked) :] != asked:
        raise ValueError("the prompt is not the question that the answers' conversations begin with; correct the row")
    turns = (*(system or other_system), *(begun or asked))
    if not begun and not asked:
        raise ValueError(
            f"columns {columns['chosen']!r} and {columns['rejected']!r} hold answers, but no column looks like their question. "
            "Say which: data.prompt: COLUMN"
        )
    check_order(turns, need_target=False)
    if turns[-1].role == "assistant":
        raise ValueError("the prompt ends with an answer; it has to end with the user's question, correct the row")
    return turns


def _parted(turns: Sequence[Turn]) -> tuple[tuple[Turn, ...], tuple[Turn, ...]]:
    """The system prompt, and the rest."""
    n = 1 if turns and turns[0].role == "system" else 0
    return tuple(turns[:n]), tuple(turns[n:])
