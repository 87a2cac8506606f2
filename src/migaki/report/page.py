"""A run's folder as one HTML page: nothing is fetched when it is opened, nothing but the folder is read to make it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from migaki.core.codec import parse_yaml
from migaki.core.store import read_json
from migaki.core.types import shorten
from migaki.core.units import bytes_text, count_text, percent_text, seconds_text
from migaki.report.charts import Curve, line_chart
from migaki.report.words import WORDS

__all__ = ["write_report"]

_RATIOS = ("accuracy", "f1", "precision", "recall", "exact_match", "chrf", "character_f1", "stopped")
_MATRIX_LABELS = 25
"""Above so many labels a matrix can no longer be read; the most confused pairs are listed instead."""
_WORST, _EXAMPLES, _PAIRS, _POINTS = 30, 10, 30, 600


def write_report(folder: Path, language: Literal["en", "ja"] = "en") -> str:
    """The page of a finished run, as text.

    Raises:
        DamagedError: a file of the run is missing or unreadable.
    """
    from jinja2 import Environment, StrictUndefined

    words = WORDS[language]
    results, environment = read_json(folder / "evaluation.json"), read_json(folder / "environment.json")
    recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
    history, predictions = _lines(folder / "history.jsonl"), _lines(folder / "predictions.jsonl")
    home = files("migaki.report")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(
        home.joinpath("page.html.jinja").read_text(encoding="utf-8")
    )
    classes = "per_class" in results["details"]
    worst = _worst_classified(predictions) if classes else _worst_generated(predictions)
    return page.render(
        w=words,
        language=language,
        css=_Markup(home.joinpath("page.css").read_text(encoding="utf-8")),
        run=folder.name,
        method=parse_yaml(recipe, "recipe.yaml")[0]["method"]["kind"],
        results=results,
        environment=environment,
        recipe=recipe,
        data=read_json(folder / "data.json"),
        sentence=_sentence(results, words),
        majority=_majority(results["details"], words),
        never=_never(results["details"], words),
        measures=_measures(results),
        facts=_facts(results["cost"], environment, words),
        charts=_charts(history, results, words),
        per_class=_per_class(results["details"]) if classes else [],
        matrix=_matrix(results["details"]) if classes and len(results["details"]["labels"]) <= _MATRIX_LABELS else None,
        pairs=_pairs(results["details"]) if classes and len(results["details"]["labels"]) > _MATRIX_LABELS else [],
        examples=[]
        if classes
        else [row for row in predictions if row["stopped"] is not None and row["baseline"]["stopped"] is not None][
            :_EXAMPLES
        ],
        worst=worst,
        worst_caption=words["worst_caption_classify" if classes else "worst_caption_generate"],
        surroundings=_surroundings(environment),
    )


class _Markup(str):
    """Text of our own that needs no escaping."""

    def __html__(self) -> str:
        return self


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _number(name: str, value: float) -> str:
    return percent_text(value) if name.startswith(_RATIOS) else f"{value:.4g}"


def _range(name: str, measure: Mapping[str, float]) -> str:
    return f"{_number(name, measure['low'])} – {_number(name, measure['high'])}"


def _measures(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, tuned in results["metrics"].items():
        base = results["baseline"]["metrics"].get(name)
        rows.append(
            {
                "name": name,
                "base": _number(name, base["value"]) if base else "",
                "base_interval": _range(name, base) if base else "",
                "tuned": _number(name, tuned["value"]),
                "tuned_interval": _range(name, tuned),
                "n": tuned["n"],
            }
        )
    return rows


def _sentence(results: Mapping[str, Any], words: Mapping[str, str]) -> str:
    name = results["primary"]
    base, tuned = results["baseline"]["metrics"][name], results["metrics"][name]
    apart = base["high"] < tuned["low"] or tuned["high"] < base["low"]
    better = tuned["value"] > base["value"] if results["better"] == "max" else tuned["value"] < base["value"]
    key = "gain_unclear" if not apart else "gain_clear" if better else "gain_worse"
    return words[key].format(
        metric=words.get(name, name),
        n=tuned["n"],
        base=_number(name, base["value"]),
        tuned=_number(name, tuned["value"]),
    )


def _majority(details: Mapping[str, Any], words: Mapping[str, str]) -> str:
    if "majority" not in details:
        return ""
    return words["majority"].format(
        label=details["majority"]["label"], accuracy=percent_text(details["majority"]["accuracy"]["value"])
    )


def _never(details: Mapping[str, Any], words: Mapping[str, str]) -> str:
    labels = details.get("never_predicted") or []
    return words["never_some"].format(n=len(labels), labels=", ".join(labels)) if labels else ""


def _facts(cost: Mapping[str, Any], environment: Mapping[str, Any], words: Mapping[str, str]) -> list[tuple[str, str]]:
    share = cost["trainable_parameters"] / max(cost["total_parameters"], 1)
    return [
        (words["time"], seconds_text(cost["train_seconds"])),
        (words["memory"], bytes_text(cost["peak_bytes"])),
        (
            words["parameters"],
            f"{count_text(cost['trainable_parameters'])} / {count_text(cost['total_parameters'])} ({percent_text(share)})",
        ),
        (words["licence"], str(environment["model"]["licence"])),
    ]


def _charts(history: Sequence[Mapping[str, Any]], results: Mapping[str, Any], words: Mapping[str, str]) -> list[str]:
    steps = [line for line in history if line["event"] == "step"]
    thin = steps[:: max(1, len(steps) // _POINTS)]
    evaluations = [line for line in history if line["event"] == "evaluation"]
    train = Curve(words["train"], "a", [(line["step"], line["loss"]) for line in thin])
    valid = Curve(words["valid"], "b", [(line["step"], line["metrics"]["loss"]) for line in evaluations])
    charts = [line_chart([train, valid], words["loss"], words["step"])]
    metric = results["primary"]
    if metric != "loss":
        points = [(line["step"], line["metrics"][metric]) for line in evaluations]
        charts.append(
            line_chart([Curve(words["valid"], "b", points)], words.get(metric, metric), words["step"], dots=True)
        )
    rate = Curve(words["learning_rate"], "a", [(line["step"], line["learning_rate"]) for line in thin])
    return [*charts, line_chart([rate], words["learning_rate"], words["step"])]


def _per_class(details: Mapping[str, Any]) -> list[dict[str, Any]]:
    never = set(details["never_predicted"])
    rows = [
        {
            "label": label,
            "never": label in never,
            "support": figures["support"],
            "predicted": figures["predicted"],
            **{name: percent_text(figures[name]["value"]) for name in ("precision", "recall", "f1")},
            "interval": _range("f1", figures["f1"]),
            "order": figures["f1"]["value"],
        }
        for label, figures in details["per_class"].items()
    ]
    return sorted(rows, key=lambda row: (row["order"], row["label"]))


def _matrix(details: Mapping[str, Any]) -> dict[str, Any]:
    labels, counts = details["labels"], details["confusion"]
    return {
        "labels": labels,
        "rows": [
            {"label": label, "cells": [{"n": n or "", "share": round(0.75 * n / max(sum(row), 1), 2)} for n in row]}
            for label, row in zip(labels, counts, strict=True)
        ],
    }


def _pairs(details: Mapping[str, Any]) -> list[dict[str, Any]]:
    labels = details["labels"]
    pairs = [
        {"target": labels[i], "output": labels[j], "n": n}
        for i, row in enumerate(details["confusion"])
        for j, n in enumerate(row)
        if n and i != j
    ]
    return sorted(pairs, key=lambda pair: (-pair["n"], pair["target"], pair["output"]))[:_PAIRS]


def _worst_classified(predictions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    wrong = sorted(
        (row for row in predictions if row["output"] != row["target"]), key=lambda row: -(row["confidence"] or 0)
    )
    return [
        {
            **row,
            "text": shorten(row["text"], 240),
            "figure": percent_text(row["confidence"]) if row["confidence"] is not None else "",
        }
        for row in wrong[:_WORST]
    ]


def _worst_generated(predictions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    judged = sorted((row for row in predictions if row["targets"]), key=lambda row: -row["loss"] / row["targets"])
    return [
        {
            **row,
            "text": shorten(row["text"], 240),
            "target": shorten(row["target"], 240),
            "figure": f"{row['loss'] / row['targets']:.3f}",
        }
        for row in judged[:_EXAMPLES]
    ]


def _surroundings(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    flat = [(name, str(value)) for name, value in environment.items() if not isinstance(value, Mapping)]
    flat = [(name, bytes_text(float(value)) if name.endswith("_bytes") else value) for name, value in flat]
    inner = [
        (f"{name}.{key}" if name == "model" else key, str(value))
        for name in ("packages", "model")
        for key, value in environment[name].items()
    ]
    return flat + inner
