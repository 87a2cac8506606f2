"""Small sets in English and Japanese, made from templates: named parts, several labels, pairs of texts."""

from __future__ import annotations

import itertools
from typing import Any

from migaki.core.types import Dataset, Labelled, MultiLabelled, Place, Row, Span, Tagged

PEOPLE = {"en": ("Aki", "Ben Lee", "Chie", "Dora", "Emil Sato"), "ja": ("佐藤さん", "鈴木", "高橋花子", "田中")}
PLACES = {"en": ("Kyoto", "New York", "Oslo"), "ja": ("京都", "東京都港区", "札幌")}
TEMPLATES = {
    "en": (
        "{PERSON} has no screen in {PLACE} .",
        "in {PLACE} the printer of {PERSON} does not print",
        "please send the invoice to {PERSON} again",
        "the order has not arrived",
    ),
    "ja": (
        "{PLACE}の{PERSON}の画面が真っ暗です。",
        "{PERSON}は{PLACE}でパスワードを忘れました。",
        "{PERSON}に返品したいのですが",
        "画面が真っ暗です",
    ),
}


def filled(template: str, names: dict[str, str]) -> tuple[str, tuple[Span, ...]]:
    """The sentence, and where its names stand."""
    text, spans = "", []
    for piece in template.replace("}", "{").split("{"):
        if piece in names:
            spans.append(Span(len(text), len(text) + len(names[piece]), piece))
            piece = names[piece]
        text += piece
    return text, tuple(spans)


def tagged_rows(n: int, language: str = "en") -> list[dict[str, Any]]:
    """Texts with PERSON and PLACE in them, one in four without."""
    rows = []
    for i in range(n):
        template = TEMPLATES[language][i % 4]
        people, places = PEOPLE[language], PLACES[language]
        text, spans = filled(
            f"{i} {template}", {"PERSON": people[i // 4 % len(people)], "PLACE": places[i % len(places)]}
        )
        rows.append({"text": text, "spans": [span.as_json() for span in spans]})
    return rows


def tagged(n: int, language: str = "en") -> Dataset:
    """The same as a task reads them."""
    return Dataset(
        "train",
        tuple(
            Row(Place("names", i), Tagged(row["text"], tuple(Span(**span) for span in row["spans"])))
            for i, row in enumerate(tagged_rows(n, language), 1)
        ),
    )


PARTS = {
    "billing": ("please send the invoice again", "請求書"),
    "delivery": ("the order has not arrived", "荷物が届かない"),
    "technical": ("the printer does not print", "画面が真っ暗です"),
}


def several_rows(n: int) -> list[dict[str, Any]]:
    """Texts about none, one, two or all of three things, in every combination."""
    combinations = [c for size in range(4) for c in itertools.combinations(sorted(PARTS), size)]
    rows = []
    for i in range(n):
        labels = combinations[i % len(combinations)]
        said = " and ".join(PARTS[label][i % 2] for label in labels) or "yes no"
        rows.append({"text": f"{said} {i}", "labels": list(labels)})
    return rows


def several(n: int) -> Dataset:
    """The same as a task reads them."""
    rows = several_rows(n)
    return Dataset(
        "train",
        tuple(Row(Place("mails", i), MultiLabelled(r["text"], tuple(r["labels"]))) for i, r in enumerate(rows, 1)),
    )


def pair_rows(n: int) -> list[dict[str, str]]:
    """Two sentences that are about the same thing, or not."""
    texts = [texts for pair in PARTS.values() for texts in [pair]]
    rows = []
    for i in range(n):
        first, second = texts[i % 3], texts[(i + i // 3 % 2) % 3]
        rows.append(
            {
                "text": f"{first[i % 2]} {i}",
                "text_pair": second[i // 2 % 2],
                "label": "same" if first is second else "other",
            }
        )
    return rows


def pairs(n: int) -> Dataset:
    """The same as a task reads them."""
    rows = pair_rows(n)
    return Dataset(
        "train",
        tuple(Row(Place("pairs", i), Labelled(r["text"], r["label"], r["text_pair"])) for i, r in enumerate(rows, 1)),
    )
