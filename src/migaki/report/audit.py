"""An audit of data as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from migaki.report.words import AUDIT, COMPARISON, WORDS, Language

__all__ = ["write_audit"]

_SIZES = ("characters", "answers", "tokens", "targets", "turns")


def write_audit(source: str, found: Mapping[str, Any], language: Language = "en") -> str:
    """The page, as text.

    Args:
        source: what was looked at.
        found: `Audit.as_json()`.
        language: of the headings; what was found is told in English, as on the command line.
    """
    words = {**WORDS[language], **COMPARISON[language], **AUDIT[language]}
    facts = found["facts"]
    home = files("migaki.report")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    levels = [light["level"] for light in found["lights"]]
    headline = words["audit_red" if "red" in levels else "audit_yellow" if "yellow" in levels else "audit_green"]
    return page.from_string(home.joinpath("audit.html.jinja").read_text(encoding="utf-8")).render(
        w=words,
        language=language,
        css=Markup(home.joinpath("page.css").read_text(encoding="utf-8")),  # noqa: S704 (a file of ours)
        headline=headline.format(red=levels.count("red"), yellow=levels.count("yellow")),
        source=source,
        facts=facts,
        lights=found["lights"],
        quantiles=[
            *((words[name], facts[name]) for name in _SIZES if name in facts),
            *((words.get(f"by_{name}", name), sizes) for name, sizes in facts.get("traits", {}).items()),
        ],
        languages=list(facts.get("languages", {}).items()),
        columns=", ".join(f"{role} = {column}" for role, column in facts.get("columns", {}).items()),
        labels=list(facts.get("labels", {}).items()),
    )
