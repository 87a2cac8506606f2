"""Columns by their role, and the cells of a record: what every reader needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from migaki.core.codec import nearest
from migaki.core.types import shorten

__all__ = [
    "TEXT_ROLES",
    "check_named",
    "guess",
    "label_of",
    "labelled_columns",
    "listed",
    "need_roles",
    "sound",
    "text_in",
    "texts_in",
]

_PARTNERS = {
    "text": ("text_pair", "text2", "text_b"),
    "text1": ("text2",),
    "text_a": ("text_b",),
    "sentence1": ("sentence2",),
    "sentence_a": ("sentence_b",),
    "premise": ("hypothesis",),
    "question1": ("question2",),
    "前提": ("仮説",),
    "文1": ("文2",),
}
"""Under which names the second text stands beside the first one."""

TEXT_ROLES: Mapping[str, Sequence[str]] = {
    "text": (
        *("text", "sentence", "content", "message", "utterance", "query", "question", "input", "body", "review"),
        *("本文", "テキスト", "文章", "文", "内容", "質問"),
        *(first for first in _PARTNERS if first != "text"),
    ),
    # Never guessed alone: only beside the column that it belongs to.
    "text_pair": (),
}
"""A text, and perhaps a second one that belongs to it."""


def check_named(names: Sequence[str], named: Mapping[str, str], roles: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError where the recipe names a role that the task does not have, a column that is not there, or one
    column twice."""
    for role, column in named.items():
        if role not in roles:
            wanted = ", ".join(f"data.{name}" for name in roles)
            raise ValueError(f"data.{role} has no meaning for this task; its columns are named by {wanted}. Remove it.")
        if column not in names:
            raise ValueError(f"data.{role} names the column {column!r}, which is not there; {nearest(column, names)}")
    twice = next((column for column in named.values() if list(named.values()).count(column) > 1), None)
    if twice is not None:
        both = " and ".join(f"data.{role}" for role, column in named.items() if column == twice)
        raise ValueError(f"{both} name the same column {twice!r}; name one column each")


def guess(names: Sequence[str], named: Mapping[str, str], candidates: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """`named` and, for each role still missing, the column under the first of its candidates that is there and free."""
    found = dict(named)
    for role, usual in candidates.items():
        free = {name.lower().strip(): name for name in reversed(names) if name not in found.values()}
        column = found.get(role) or next((free[name] for name in usual if name in free), None)
        if column is not None:
            found[role] = column
    return found


def need_roles(names: Sequence[str], found: Mapping[str, str], needed: Sequence[str]) -> None:
    """Raises ValueError where one of the needed roles has no column."""
    for role in needed:
        if role not in found:
            raise ValueError(
                f"no column looks like the {role}; the columns are {listed(names)}. Say which: data.{role}: COLUMN."
            )


def labelled_columns(
    names: Sequence[str], named: Mapping[str, str], roles: Mapping[str, Sequence[str]], need_label: bool
) -> dict[str, str]:
    """The columns of a text, of a second one where it usually stands beside the first, and of what is said of them.

    Raises:
        ValueError: as `check_named`, or the text or a label that is needed has no column.

    >>> labelled_columns(["premise", "hypothesis"], {}, TEXT_ROLES, need_label=False)
    {'text': 'premise', 'text_pair': 'hypothesis'}
    """
    check_named(names, named, roles)
    found = _paired(names, guess(names, named, roles))
    need_roles(names, found, ("text", "label") if need_label else ("text",))
    return found


def _paired(names: Sequence[str], found: Mapping[str, str]) -> dict[str, str]:
    if "text_pair" in found or "text" not in found:
        return dict(found)
    usual = {"text_pair": _PARTNERS.get(found["text"].lower().strip(), ())}
    return guess(names, found, usual)


def texts_in(values: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[str, str | None]:
    """The text of a record, and its second one where there is a column for it. Raises ValueError where one is empty."""
    found = {role: text_in(values, columns[role], "text") for role in ("text", "text_pair") if role in columns}
    empty = next((role for role, text in found.items() if text is None), None)
    if empty is not None:
        raise ValueError(f"the text in column {columns[empty]!r} is empty; fill it in or remove the row")
    return str(found["text"]), found.get("text_pair")


def label_of(value: Any, what: str) -> str | None:
    """A label as the word it is, None where there is none. Raises ValueError, with `what` it is, for anything else.

    >>> label_of(3.0, "the label"), label_of(True, "the label"), label_of("  ", "the label")
    ('3', 'true', None)
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    if value is not None and not isinstance(value, str):
        raise ValueError(
            f"{what} is {shorten(repr(value))}; a label is a word or a whole number, correct or remove the row"
        )
    return sound(value, what).strip() or None if value is not None else None


def listed(names: Sequence[str]) -> str:
    """Names as they stand in a message.

    >>> listed(["a", "b"])
    "'a', 'b'"
    """
    return ", ".join(map(repr, names))


def text_in(values: Mapping[str, Any], column: str, role: str) -> str | None:
    """The text of a cell exactly as it is, None where there is none or only white space."""
    value = values.get(column)
    what = f"the {role} in column {column!r}"
    if value is None:
        return None
    if isinstance(value, str):
        return sound(value, what) if value.strip() else None
    raise ValueError(f"{what} is {shorten(repr(value))}, not a text; correct or remove the row")


def sound(text: str, what: str) -> str:
    """The text itself. Raises ValueError where it holds half of a character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} holds half of a character ({text[error.start]!a}) at position {error.start + 1}, which no "
            "file can hold; correct or remove the row"
        ) from None
    return text
