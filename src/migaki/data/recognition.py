"""Which of the usual formats rows are in, told by their columns and by what stands in the first of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from migaki.core.errors import DataError
from migaki.core.types import Record, Row, Several
from migaki.data.columns import listed
from migaki.data.formats import READERS

__all__ = ["TASKS", "Form", "recognised"]

TASKS: Mapping[str, str] = {
    "preferred": "",
    "judged": "",
    "tagged": "tag_tokens",
    "multi_labelled": "label_text",
    "labelled": "classify_text",
    "conversation": "generate",
    "plain": "",
}
"""Kinds of content in the order in which they are tried, the most particular first, with the task that learns from each;
empty where none does yet."""
_LOOKED_AT = 3


@dataclass(frozen=True)
class Form:
    """What rows were recognised as."""

    content_kind: str
    name: str
    """The format in words."""
    columns: Mapping[str, str]
    """Role -> column; a recipe fixes each by `data.ROLE: COLUMN`."""
    unused: tuple[str, ...]
    """Columns that are not read."""
    rows: tuple[Row, ...]
    """The first rows as a task will see them."""
    others: tuple[str, ...]
    """Other kinds of content by which the same rows could be read."""

    @property
    def task(self) -> str:
        """The kind of the task that learns from such rows; empty where none does yet."""
        return TASKS[self.content_kind]

    def settings(self) -> dict[str, str]:
        """The lines below `data:` that fix the mapping of columns."""
        return dict(self.columns)


def recognised(source: str, columns: Sequence[str], records: Sequence[Record], wanted: str | None = None) -> Form:
    """The format of rows.

    Args:
        source: name of the file, for messages.
        columns: all column names.
        records: the first rows; up to three are looked at.
        wanted: the kind of content, where it is known; None: the first that fits.
    Raises:
        DataError: they are of no known format, with what each one lacks; or not of the one that is wanted.
    """
    first = records[:_LOOKED_AT]
    forms: list[Form] = []
    reasons: dict[str, str] = {}
    for kind in [wanted] if wanted else TASKS:
        try:
            forms.append(_read_as(kind, columns, first))
        except ValueError as error:
            reasons[kind] = str(error)
    if not forms:
        raise DataError(_refusal(source, columns, reasons, wanted))
    chosen = forms[0]
    # Where a row has a text with one label, it always also has a text, and a text with any number of labels.
    others = tuple(form.content_kind for form in forms[1:] if form.content_kind not in ("plain", "multi_labelled"))
    return Form(chosen.content_kind, chosen.name, chosen.columns, chosen.unused, chosen.rows, others)


def _read_as(kind: str, columns: Sequence[str], records: Sequence[Record]) -> Form:
    """Raises ValueError, with the place where it is a row's fault, if the rows are not of this kind."""
    reader = READERS[kind]
    chosen = reader.choose(columns, {})
    rows = []
    for record in records:
        try:
            rows.append(Row(record.place, reader(record.values, chosen, True)))
        except ValueError as error:
            raise ValueError(f"{record.place}: {error}") from None
    if kind in ("multi_labelled", "tagged"):
        _need_evidence(kind, chosen, records, rows)
    unused = tuple(name for name in columns if name not in chosen.values())
    return Form(kind, _name(kind, chosen, records), chosen, unused, tuple(rows), ())


def _need_evidence(kind: str, columns: Mapping[str, str], records: Sequence[Record], rows: Sequence[Row]) -> None:
    """Raises ValueError where the cells are those of another kind as well, so that nothing speaks for this one."""
    if kind == "tagged":
        if any(isinstance(row.content, Several) and row.content.names() for row in rows) or "tags" in columns:
            return
        raise ValueError("the first rows hold no named part of a text")
    cells = [record.values.get(columns["label"]) for record in records]
    if not any(isinstance(cell, list) or (isinstance(cell, str) and cell.lstrip().startswith("[")) for cell in cells):
        raise ValueError(
            f"column {columns['label']!r} holds no lists of labels; name the task where they are divided by signs"
        )


def _refusal(source: str, columns: Sequence[str], reasons: Mapping[str, str], wanted: str | None) -> str:
    if wanted:
        return f"{source}: {reasons[wanted]}"
    shown = "".join(f"\n  - as {TASKS[kind] or kind}: {reason}" for kind, reason in reasons.items())
    return (
        f"{source} is in no known format; its columns are {listed(columns)}. Rename them, or name the task by --task and the columns "
        f"in a recipe. What is missing:{shown}"
    )


def _name(kind: str, columns: Mapping[str, str], records: Sequence[Record]) -> str:
    return _NAMES[kind](columns, records[0].values if records else {})


def _conversation(columns: Mapping[str, str], values: Mapping[str, Any]) -> str:
    if "messages" in columns:
        messages = values.get(columns["messages"])
        first = messages[0] if isinstance(messages, list) and messages else {}
        return "ShareGPT: messages of {from, value}" if "from" in first else "messages of {role, content}"
    if columns["prompt"].lower() == "instruction":
        return "Alpaca with history" if "history" in columns else "Alpaca"
    return "prompt and completion, with history" if "history" in columns else "prompt and completion"


def _preferred(columns: Mapping[str, str], values: Mapping[str, Any]) -> str:
    if columns.get("chosen") == "preferred_output":
        return "OpenAI's preferences: input, preferred_output and non_preferred_output"
    return "preferences: prompt, chosen and rejected"


def _tagged(columns: Mapping[str, str], values: Mapping[str, Any]) -> str:
    return "tokens with tags" if "tags" in columns else "a text with spans in characters"


def _labelled(columns: Mapping[str, str], values: Mapping[str, Any]) -> str:
    return "two texts and a label" if "text_pair" in columns else "a text and a label"


_NAMES: Mapping[str, Callable[[Mapping[str, str], Mapping[str, Any]], str]] = {
    "preferred": _preferred,
    "judged": lambda *_: "KTO: answers that are good or bad",
    "tagged": _tagged,
    "multi_labelled": lambda *_: "a text and any number of labels",
    "labelled": _labelled,
    "conversation": _conversation,
    "plain": lambda *_: "plain text",
}
