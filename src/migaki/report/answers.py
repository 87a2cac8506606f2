"""Answers as they are read: a label as it is, several labels in a row, named parts with their words."""

from __future__ import annotations

import json
from collections.abc import Mapping

__all__ = ["answer_text"]


def answer_text(kind: str | None, answer: str | None, text: str, words: Mapping[str, str]) -> str:
    """An answer of predictions.jsonl in words.

    Args:
        kind: `labels` or `spans`, of which the answer is JSON; None: a plain answer.
        answer: what stands there.
        text: what was asked, of which spans are parts.
        words: of the language of the page.

    >>> answer_text("spans", '[{"start": 0, "end": 3, "label": "NAME"}]', "Aki ran", {"nothing": "-"})
    'NAME “Aki”'
    >>> answer_text("labels", '["a", "b"]', "", {"nothing": "-"}), answer_text("labels", "[]", "", {"nothing": "-"})
    ('a, b', '-')
    """
    if answer is None or kind is None:
        return answer or ""
    found = json.loads(answer)
    if kind == "labels":
        said = ", ".join(found)
    else:
        said = " · ".join(f"{span['label']} “{text[span['start'] : span['end']]}”" for span in found)
    return said or words["nothing"]
