"""Checks of conversations: what they would teach beside what is meant."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from migaki.audit.light import EXAMPLES, Light, places, text_of
from migaki.core.types import Row, shorten
from migaki.data.duplicates import compared_form, copy_form

__all__ = ["chat_lights", "points_at_nothing"]

_REPEATED_SHARE, _REPEATED_ROWS = 0.02, 5

_MARKS = re.compile(
    r"<\|(?:im_start|im_end|start|end|user|assistant|system|eot_id|start_header_id)\|>|\[/?INST\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>|^### ?(?:Instruction|Response|Input|指示|応答|入力)\b ?:?|^(?:USER|ASSISTANT|Human|Assistant): ",
    re.MULTILINE,
)
"""What chat templates and instruction formats write around messages."""

_POINTS = re.compile(
    r"\bfollowing\b|\b(?:text|passage|paragraph|article|sentence|code|list|table|data)s? below\b"
    r"|\bthis (?:text|passage|paragraph|article|sentence)\b|以下の|下記の|次の(?:文|テキスト|記事|コード|メール)|この(?:文章|記事)",
    re.IGNORECASE,
)
_BEHIND = 2
"""Characters behind a line break, a colon, a quote or the end of the sentence that may be what is pointed at."""


def chat_lights(rows: Sequence[Row], columns: Mapping[str, str]) -> Iterator[Light]:
    """Everything that can be told without a model.

    Args:
        rows: of all splits, their contents conversations.
        columns: what was read as what.
    """
    form = "messages" if "messages" in columns else "instruction and answer"
    named = ", ".join(f"{role} from {column!r}" for role, column in columns.items())
    yield Light("format", "green", f"every row was read in one form, {form}: {named}", len(rows))
    found = [*_repeated_answers(rows), *_echoes(rows), *_wordless(rows), *_ambiguous(rows), *_pointing(rows)]
    yield from found
    yield from _marked(rows)
    yield from _system_prompts(rows)
    if not found:
        yield Light("conversations", "green", f"{len(rows)} conversations, each with words on both sides")


def _repeated_answers(rows: Sequence[Row]) -> Iterator[Light]:
    answers: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        answers[compared_form(row.content.turns[-1].content)].append(row)
    often = max(_REPEATED_ROWS, _REPEATED_SHARE * len(rows))
    repeated = {text: found for text, found in answers.items() if len(found) >= often}
    if repeated:
        shown = [f"{shorten(t, 40)!r} ({len(f)} rows, first {f[0].place})" for t, f in repeated.items()]
        yield Light(
            "repeated answers",
            "yellow",
            f"{len(repeated)} answers stand in many rows: the model will say them often",
            sum(map(len, repeated.values())),
            tuple(shown[:EXAMPLES]),
            "leave most of their rows out",
        )


def _echoes(rows: Sequence[Row]) -> Iterator[Light]:
    echoes = []
    for row in rows:
        asked = next((turn.content for turn in reversed(row.content.turns[:-1]) if turn.role == "user"), "")
        if compared_form(asked) and compared_form(asked) == compared_form(row.content.turns[-1].content):
            echoes.append(row)
    if echoes:
        text = f"{len(echoes)} answers only repeat the question"
        yield Light("echoes", "yellow", text, len(echoes), places(echoes), "correct or remove the rows")


def _wordless(rows: Sequence[Row]) -> Iterator[Light]:
    found = [row for row in rows if not any(ch.isalpha() for ch in text_of(row))]
    if found:
        text = f"{len(found)} questions hold no letter"
        yield Light(
            "instructions without words", "yellow", text, len(found), places(found), "correct or remove the rows"
        )


def _ambiguous(rows: Sequence[Row]) -> Iterator[Light]:
    """One question with several answers: the model learns a mixture of them."""
    by_prompt: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        answer = "\n".join(turn.content for turn in row.content.turns if turn.role == "assistant")
        by_prompt[copy_form(row.content.key())].setdefault(compared_form(answer), row)
    found = [list(answers.values()) for answers in by_prompt.values() if len(answers) > 1]
    if found:
        shown = [f"{', '.join(str(row.place) for row in few[:3])}: {shorten(text_of(few[0]), 40)!r}" for few in found]
        yield Light(
            "ambiguous instructions",
            "yellow",
            f"{len(found)} questions stand there with several different answers: which of them is right cannot be learned",
            len(found),
            tuple(shown[:EXAMPLES]),
            "keep one answer of each, or write into the question what makes the difference",
        )


def _pointing(rows: Sequence[Row]) -> Iterator[Light]:
    found = [row for row in rows if points_at_nothing(text_of(row))]
    if found:
        shown = [f"{row.place}: {shorten(text_of(row), 50)!r}" for row in found]
        yield Light(
            "instructions that point at nothing",
            "yellow",
            f"{len(found)} questions speak of a text that seems not to be there (by a rule: `the following`, `below`, 以下の, and nothing behind it)",
            len(found),
            tuple(shown[:EXAMPLES]),
            "add the missing text, often a column that was not read: data.prompt, or the column `input`",
        )


def points_at_nothing(question: str) -> bool:
    """Whether a question speaks of a text below that does not follow: a rule, which does not read.

    >>> points_at_nothing("Summarise the following text."), points_at_nothing("Summarise the following text:\\nIt rained all day.")
    (True, False)
    """
    match = _POINTS.search(question)
    if match is None or "\n" in question[: match.start()].strip():
        return False
    _, *behind = re.split('[\\n:：.。?？!！"“「『`]', question[match.end() :], maxsplit=1)
    return not behind or len(behind[0].strip()) < _BEHIND


def _marked(rows: Sequence[Row]) -> Iterator[Light]:
    """Texts that went through a chat template before: it would be put around them a second time."""
    found = [row for row in rows if any(_MARKS.search(turn.content) for turn in row.content.turns)]
    if found:
        marks = [next(m[0] for turn in row.content.turns if (m := _MARKS.search(turn.content))) for row in found]
        yield Light(
            "rendered templates",
            "red" if len(found) > 0.01 * len(rows) else "yellow",
            f"{len(found)} rows hold marks of a chat template in their text, which would be put around them once more",
            len(found),
            tuple(f"{row.place}: {mark.strip()!r}" for row, mark in zip(found, marks, strict=True))[:EXAMPLES],
            f"data.clean: [{{kind: remove, texts: [{', '.join(repr(m) for m in dict.fromkeys(marks))}]}}], or split the text into messages",
        )


def _system_prompts(rows: Sequence[Row]) -> Iterator[Light]:
    without = [row for row in rows if row.content.turns[0].role != "system"]
    if 0 < len(without) < len(rows):
        yield Light(
            "system prompts",
            "yellow",
            f"{len(rows) - len(without)} of {len(rows)} rows have a system prompt and {len(without)} have none: serve the model both ways, or give all the same",
            len(without),
            places(without),
            "data.system: COLUMN, or remove it everywhere",
        )
