"""A comparison's folder as one HTML page: which method, how sure, at what cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from migaki.core.store import read_json
from migaki.core.types import shorten
from migaki.core.units import bytes_text, count_text, seconds_text
from migaki.report.answers import answer_text
from migaki.report.charts import Curve, Dot, line_chart, scatter_chart
from migaki.report.exhibits import Hung, Use, hang, kept_exhibits
from migaki.report.figures import cell, shares
from migaki.report.templates import rendered
from migaki.report.words import COMPARISON, WORDS, Language, said

__all__ = ["write_comparison"]

Json = Mapping[str, Any]
_TEXT = 200


def write_comparison(folder: Path, language: Language = "en") -> str:
    """The page of a finished comparison, as text.

    Raises:
        DamagedError: `comparison.json` is missing or unreadable.
    """
    facts = read_json(folder / "comparison.json")
    words = {**WORDS[language], **COMPARISON[language]}
    metric = facts["metric"]
    methods = {name: facts["methods"][name] for name in _order(facts)}
    uses = [Use((name,), row) for name, found in facts["disagreements"].items() for row in found["examples"]]
    hung = hang(uses, kept_exhibits(folder))
    return rendered(
        "comparison.html.jinja",
        w=words,
        language=language,
        name=folder.name,
        facts=facts,
        metric=words.get(f"metric_{metric}", metric),
        remarks=_remarks(facts, words),
        rows=_rows(methods, facts, words, language),
        scatter=_scatter(methods, facts, words),
        curves=_curves(facts, words),
        disagreements=_disagreements(facts, hung, language),
        hung=hung,
    )


def _order(facts: Json) -> list[str]:
    """By group, the best first; floors that are no method last."""
    grouped = [name for members in facts["groups"] for name in members]
    return [*grouped, *(name for name in facts["methods"] if name not in grouped)]


def _remarks(facts: Json, words: Mapping[str, str]) -> list[tuple[str, bool]]:
    chosen = facts["recommended"]
    best = facts["best_group"]
    remarks = [(words[f"why_{facts['why']}"].format(method=chosen, best=", ".join(best)), False)]
    below = [name for name in facts["not_above_floor"] if name != chosen]
    if below:
        remarks.append((words["not_above_floor"].format(methods=", ".join(below)), True))
    for flip in facts["flips_when"]:
        text = words["flips_each"] if facts["labels"] else words["flips"]
        each = round(flip["rows"] / facts["labels"]) if facts["labels"] else 0
        remarks.append((text.format(method=flip["method"], rows=flip["rows"], each=each), False))
    if (facts["methods"][chosen].get("forgetting") or {}).get("forgotten"):
        remarks.append((words["chosen_forgot"].format(method=chosen), True))
    if facts["left_out"]:
        remarks.append((words["left_out"].format(what=", ".join(facts["left_out"])), True))
    return remarks


def _rows(methods: Json, facts: Json, words: Mapping[str, str], language: Language) -> list[dict[str, Any]]:
    metric = facts["metric"]
    drawn = shares(metric, [method["metrics"][metric] for method in methods.values()])
    rows = []
    for (name, method), share in zip(methods.items(), drawn, strict=True):
        measured = "group" in method
        latency = [method.get("latency_p50_s"), method.get("latency_p95_s")]
        forgetting = method.get("forgetting") or {}
        rows.append(
            {
                "name": name,
                "chosen": name == facts["recommended"],
                "figure": cell(metric, method["metrics"][metric]),
                "share": share,
                "group": method.get("group", ""),
                "seeds": len(method.get("seeds", ())) or "",
                "parameters": count_text(method["trainable_parameters"]) if measured else "",
                "seconds": seconds_text(method["seconds"]) if measured else "",
                "memory": bytes_text(method["peak_bytes"]) if measured else "",
                "disk": bytes_text(method["disk_bytes"]) if measured else "",
                "latency": " / ".join(f"{1000 * s:.0f}" for s in latency if s is not None),
                "forgetting": _forgetting(forgetting, words),
                "forgot": bool(forgetting.get("forgotten")),
                "new_knowledge": said(method.get("new_knowledge", ""), language),
                "rate": f"{method['learning_rate']:g}" if method.get("learning_rate") else "",
            }
        )
    return rows


def _forgetting(forgetting: Json, words: Mapping[str, str]) -> str:
    if not forgetting:
        return ""
    return words["forgot"] if forgetting.get("forgotten") else words["not_forgot"]


def _scatter(methods: Json, facts: Json, words: Mapping[str, str]) -> Markup:
    metric = facts["metric"]
    dots = [
        Dot(name, method["seconds"], method["metrics"][metric], name == facts["recommended"])
        for name, method in methods.items()
        if "group" in method
    ]
    return scatter_chart(words["quality_cost"], words["quality_cost_axes"], dots)


def _curves(facts: Json, words: Mapping[str, str]) -> Markup:
    curves = [
        Curve(name, "after" if name == facts["recommended"] else "train", [(p["rows"], p["value"]) for p in points])
        for name, points in facts["curves"].items()
        if len(points) > 1
    ]
    return line_chart(words["learning_curves"], words["learning_curves_axes"], curves)


def _disagreements(facts: Json, hung: Hung, language: Language) -> list[dict[str, Any]]:
    def shown(method: str, row: Json) -> dict[str, Any]:
        said = {
            name: answer_text(facts.get("answers"), row[name], row["text"], WORDS[language])
            for name in ("target", "recommended", "other")
        }
        return {**row, **said, "text": shorten(row["text"], _TEXT), "view": hung.of(method, row)}

    return [
        {
            "name": name,
            "only_recommended": found["only_recommended"],
            "only_other": found["only_other"],
            "examples": [shown(name, row) for row in found["examples"]],
        }
        for name, found in facts["disagreements"].items()
    ]
