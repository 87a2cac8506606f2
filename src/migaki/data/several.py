"""How a text with any number of labels is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from migaki.core.types import Finding, MultiLabelled, Record, shorten
from migaki.data.columns import TEXT_ROLES, label_of, labelled_columns, texts_in

__all__ = ["SeveralReader", "labels_in"]

_SEPARATORS = "|;、,"
_EXAMPLES = 5


def labels_in(value: Any, what: str) -> tuple[str, ...]:
    """All labels of a cell, sorted, each once; an empty cell holds none.

    A list (also as JSON in a text) holds one in each item; a text one between each two of the separators `|`, `;`, `、` or
    `,`, of which only the first one in this order counts that stands in it, so that `Sales, EU|Legal` are two.

    Raises:
        ValueError: with `what` it is, where it is neither, or an item is no label.

    >>> labels_in("b; a", "x"), labels_in(["1", 2], "x"), labels_in("", "x"), labels_in('["a, b"]', "x")
    (('a', 'b'), ('1', '2'), (), ('a, b',))
    """
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(
                f"{what} is {shorten(value)!r}, which begins like a JSON list and is none; correct it"
            ) from None
    if isinstance(value, str):
        separator = separator_of(value)
        value = value.split(separator) if separator else [value]
    items = value if isinstance(value, list | tuple) else [value]
    found = {label_of(item, f"a label of {what}") for item in items}
    return tuple(sorted(label for label in found if label is not None))


def separator_of(cell: Any) -> str | None:
    """What stands between the labels of a cell that is a text; None where there is one label or a list."""
    if not isinstance(cell, str) or cell.strip().startswith("["):
        return None
    return next((separator for separator in _SEPARATORS if separator in cell), None)


class SeveralReader:
    """A text, or a pair of texts, and all labels that are right for it."""

    roles: Mapping[str, Sequence[str]] = {
        **TEXT_ROLES,
        "label": (
            *("labels", "label", "categories", "category", "tags", "classes", "topics", "targets", "target"),
            *("ラベル", "カテゴリ", "カテゴリー", "分類", "タグ"),
        ),
    }
    targets: Sequence[str] = ("label",)

    def choose(self, names: Sequence[str], named: Mapping[str, str], need_target: bool = True) -> dict[str, str]:
        return labelled_columns(names, named, self.roles, need_target)

    def __call__(self, values: Mapping[str, Any], columns: Mapping[str, str], need_target: bool) -> MultiLabelled:
        text, pair = texts_in(values, columns)
        column = columns.get("label")
        if column is None or column not in values:
            if need_target:
                raise ValueError(f"there is no {column!r}; write [] where no label is right")
            return MultiLabelled(text, None, pair)
        return MultiLabelled(text, labels_in(values[column], f"column {column!r}"), pair)

    def remarks(self, records: Sequence[Record], columns: Mapping[str, str]) -> list[Finding]:
        """At which separator cells were divided, so that nobody has to guess it."""
        column = columns.get("label", "")
        findings = []
        for separator in _SEPARATORS:
            divided = [r for r in records if separator_of(r.values.get(column)) == separator]
            if divided:
                message = f"the labels in column {column!r} are divided at {separator!r} in {len(divided)} rows"
                examples = tuple(f"{r.place}: {shorten(str(r.values[column]))!r}" for r in divided[:_EXAMPLES])
                remedy = 'Where it belongs to a label, write a list: ["Sales, EU", "Legal"]'
                findings.append(Finding("note", message, len(divided), examples, remedy))
        return findings
