"""A search's folder as one HTML page: what is better than the default, how sure, and what the trials tell."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from migaki.core.store import read_json
from migaki.core.units import seconds_text
from migaki.report.figures import cell, number, shares, signed
from migaki.report.search_charts import Axis, Point, bar_chart, dot_chart, parallel_chart
from migaki.report.search_words import SEARCH
from migaki.report.templates import rendered
from migaki.report.words import WORDS, Language

__all__ = ["write_search"]

Json = Mapping[str, Any]
Words = Mapping[str, str]
_RATE = "training.learning_rate"


def write_search(folder: Path, language: Language = "en") -> str:
    """The page of a finished search, as text.

    Raises:
        DamagedError: `search.json` is missing or unreadable.
    """
    facts = read_json(folder / "search.json")
    words = {**WORDS[language], **SEARCH[language]}
    metric = words.get(f"metric_{facts['metric']}", facts["metric"])
    return rendered(
        "search.html.jinja",
        w=words,
        language=language,
        name=folder.name,
        facts=facts,
        metric=metric,
        heading=_heading(facts, words),
        remarks=_remarks(facts, words),
        finals=_finals(facts, words),
        charts=_charts(facts, words, metric),
        parallel=_parallel(facts, words, metric),
        space=_space(facts),
        plateaus=_plateaus(facts, words),
        trials=_trials(facts, words),
    )


def _called(name: str, words: Words) -> str:
    """default or `trial N`, in the language of the page."""
    return words["name_default"] if name == "default" else words["name_trial"].format(number=name.split()[-1])


def _heading(facts: Json, words: Words) -> str:
    if facts["beats_default"]:
        return words["beats"].format(best=_called(facts["best_is"], words))
    return words["default_kept"]


def _remarks(facts: Json, words: Words) -> list[tuple[str, bool]]:
    metric, gain = facts["metric"], facts["gain"]
    told = {name: signed(metric, gain[key], words, unit=key == "value") for name, key in _GAIN.items()}
    if facts["best_is"] == "default":
        remarks = [(words["no_candidate"], True)]
    else:
        text = words["beats_remark" if facts["beats_default"] else "default_remark"]
        p = "< 0.001" if facts["p_value"] < 0.001 else f"{facts['p_value']:.3f}"
        remarks = [(text.format(best=_called(facts["best_is"], words), p=p, **told), False)]
    states = [trial["state"] for trial in facts["trials"]]
    counts = {"n": len(states), "whole": states.count("finished"), "failed": states.count("failed")}
    remarks.append((words["trials_remark"].format(time=seconds_text(facts["seconds"]), **counts), False))
    remarks.append((words["looks_remark"].format(looks=facts["looks"]), False))
    remarks.append((words["recipe_remark"].format(recipe=facts["recipe"]), False))
    return remarks


_GAIN = {"gain": "value", "low": "low", "high": "high"}


def _text(value: Any) -> str:
    """A value as a recipe writes it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _settings(settings: Json) -> str:
    return ", ".join(f"{_short(path)} {_text(value)}" for path, value in settings.items())


def _short(path: str) -> str:
    return path.rsplit(".", 1)[-1]


def _finals(facts: Json, words: Words) -> list[dict[str, Any]]:
    metric = facts["metric"]
    chosen = facts["best_is"] if facts["beats_default"] else "default"
    drawn = {split: shares(metric, [final[split] for final in facts["finals"]]) for split in ("valid", "test")}
    return [
        {
            "name": _called(final["name"], words),
            "chosen": final["name"] == chosen,
            "valid": cell(metric, final["valid"]),
            "test": cell(metric, final["test"]),
            "share": drawn["test"][i] or drawn["valid"][i],
            "settings": _settings(final["settings"]),
        }
        for i, final in enumerate(facts["finals"])
    ]


def _space(facts: Json) -> list[dict[str, str]]:
    default = facts["default"]["settings"]
    rows = []
    for path, written in facts["space"].items():
        kind, values = next(iter(written.items()))
        shown = (
            ", ".join(map(_text, values)) if kind == "choice" else f"{_text(values[0])} – {_text(values[1])} ({kind})"
        )
        rows.append({"setting": path, "values": shown, "default": _text(default[path])})
    return rows


def _plateaus(facts: Json, words: Words) -> list[str]:
    return [
        words["plateau_whole" if p["whole"] else "plateau"].format(
            setting=p["setting"], low=_text(p["low"]), high=_text(p["high"])
        )
        for p in facts["plateaus"]
    ]


def _trials(facts: Json, words: Words) -> list[dict[str, Any]]:
    rank = {number: place for place, number in enumerate(facts["order"])}
    ordered = sorted(facts["trials"], key=lambda trial: (rank.get(trial["number"], math.inf), trial["number"]))
    return [
        {
            "number": trial["number"],
            "value": "" if trial["value"] is None else number(facts["metric"], trial["value"]),
            "state": words[f"state_{trial['state']}"],
            "share": f"{100 * trial['share']:.0f} %" if 0 < trial["share"] < 1 else "",
            "seconds": "" if trial["seconds"] is None else seconds_text(trial["seconds"]),
            "settings": _settings(trial["settings"]),
            "origin": _called("default", words) if trial["origin"] == "default" else trial["origin"],
            "reason": trial["reason"] or "",
        }
        for trial in ordered
    ]


# Pictures


def _judged(facts: Json) -> list[Json]:
    return [trial for trial in facts["trials"] if trial["value"] is not None]


def _best_line(facts: Json, places: Sequence[float]) -> list[tuple[float, float]]:
    """The best figure up to each place, of trials that were trained to their end; of all where none was."""
    judged = _judged(facts)
    whole = [t["share"] >= 1 for t in judged]
    sign, line = 1 if facts["better"] == "max" else -1, list[tuple[float, float]]()
    for place, trial, finished in zip(places, judged, whole, strict=True):
        if finished or not any(whole):
            value = trial["value"] if not line else sign * max(sign * line[-1][1], sign * trial["value"])
            line.append((place, value))
    return line


def _charts(facts: Json, words: Words, metric: str) -> list[Markup]:
    judged = _judged(facts)
    numbers = [float(t["number"]) for t in judged]
    spent, times = 0.0, []
    for trial in judged:
        spent += trial["seconds"] or 0.0
        times.append(spent)
    found = []
    for name, places in (("by_trial", numbers), ("by_time", times)):
        points = [Point(x, t["value"], faint=t["share"] < 1) for x, t in zip(places, judged, strict=True)]
        caption = words[f"{name}_axes"].format(metric=metric)
        found.append(dot_chart(words[name], caption, points, _best_line(facts, places)))
    rates = [t for t in judged if isinstance(t["settings"].get(_RATE), int | float)]
    if _RATE in facts["space"] and rates:
        points = [Point(t["settings"][_RATE], t["value"], faint=t["share"] < 1) for t in rates]
        caption = words["rate_curve_axes"].format(metric=metric)
        found.append(dot_chart(words["rate_curve"], caption, points, log=True))
    found.append(bar_chart(words["importance"], words["importance_caption"], facts["importance"]))
    if facts["second"]:
        found.append(_pareto(facts, words, metric))
    return [chart for chart in found if chart]


def _pareto(facts: Json, words: Words, metric: str) -> Markup:
    there = [t for t in _judged(facts) if t[facts["second"]]]
    points = [
        Point(t[facts["second"]], t["value"], "after" if t["number"] in facts["pareto"] else "train") for t in there
    ]
    front = sorted((t[facts["second"]], t["value"]) for t in there if t["number"] in facts["pareto"])
    second = words[f"objective_{facts['second']}"]
    return dot_chart(
        words["pareto"].format(metric=metric, second=second), words["pareto_axes"], points, front, log=True
    )


def _parallel(facts: Json, words: Words, metric: str) -> Markup:
    judged = _judged(facts)
    axes = [_axis(path, written, [t["settings"][path] for t in judged]) for path, written in facts["space"].items()]
    values = [t["value"] for t in judged]
    if not values:
        return Markup()
    low, high = min(values), max(values)
    places = [(v - low) / (high - low) if high > low else 0.5 for v in values]
    marks = [(0.0, number(facts["metric"], low)), (1.0, number(facts["metric"], high))] if high > low else []
    sign = 1 if facts["better"] == "max" else -1
    ordered = sorted((sign * v for v in values), reverse=True)
    least = ordered[max(0, math.ceil(len(ordered) / 3) - 1)]
    caption = words["parallel_axes"].format(metric=metric)
    return parallel_chart(
        words["parallel"], caption, [*axes, Axis(metric, places, marks)], [sign * v >= least for v in values]
    )


def _axis(path: str, written: Json, values: Sequence[Any]) -> Axis:
    """Numbers by size, by their logarithm where that is how they were drawn; other values one above the other."""
    kind = next(iter(written))
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        scale = math.log10 if kind == "log" and min(values) > 0 else float
        low, high = min(map(scale, values)), max(map(scale, values))
        places = [(scale(v) - low) / (high - low) if high > low else 0.5 for v in values]
        marks = [(0.0, _text(min(values))), (1.0, _text(max(values)))] if high > low else [(0.5, _text(values[0]))]
        return Axis(_short(path), places, marks)
    seen = list(dict.fromkeys(_text(v) for v in values))
    at = {text: i / (len(seen) - 1) if len(seen) > 1 else 0.5 for i, text in enumerate(seen)}
    return Axis(_short(path), [at[_text(v)] for v in values], [(at[t], t[:10]) for t in seen])
