"""An audit of data as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from migaki.report.exhibits import Use, hang
from migaki.report.templates import rendered
from migaki.report.words import AUDIT, COMPARISON, WORDS, Language

__all__ = ["write_audit"]

_SIZES = ("characters", "answers", "tokens", "targets", "turns")


def write_audit(
    source: str,
    found: Mapping[str, Any],
    language: Language = "en",
    items: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The page, as text.

    Args:
        source: what was looked at.
        found: `Audit.as_json()`.
        language: of the headings; what was found is told in English, as on the command line.
        items: an exhibit for each file among the examples that the page shows, as `data.exhibits` makes them.
    """
    uses = [Use((light["name"],), {"text": file}) for light in found["lights"] for file in light.get("files", ())]
    hung = hang(uses, items or {})
    words = {**WORDS[language], **COMPARISON[language], **AUDIT[language]}
    facts = found["facts"]
    levels = [light["level"] for light in found["lights"]]
    headline = words["audit_red" if "red" in levels else "audit_yellow" if "yellow" in levels else "audit_green"]
    return rendered(
        "audit.html.jinja",
        w=words,
        language=language,
        headline=headline.format(red=levels.count("red"), yellow=levels.count("yellow")),
        source=source,
        facts=facts,
        lights=[{**light, "views": [view for _, view in hung.at(light["name"])]} for light in found["lights"]],
        hung=hung,
        quantiles=[
            *((words[name], facts[name]) for name in _SIZES if name in facts),
            *((words.get(f"by_{name}", name), _measured(sizes)) for name, sizes in facts.get("traits", {}).items()),
        ],
        languages=list(facts.get("languages", {}).items()),
        columns=", ".join(f"{role} = {column}" for role, column in facts.get("columns", {}).items()),
        labels=list(facts.get("labels", {}).items()),
    )


def _measured(sizes: Mapping[str, float]) -> dict[str, str]:
    """Numbers as they are read: whole ones without a point, others with four digits.

    >>> _measured({"least": 64.0, "most": 0.000503123})
    {'least': '64', 'most': '0.0005031'}
    """
    return {name: f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}" for name, value in sizes.items()}
