"""A run's folder as one HTML page: nothing is fetched when it is opened, nothing but the folder is read to make it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from migaki.core.codec import dump_yaml, parse_yaml
from migaki.core.store import read_json
from migaki.core.types import shorten
from migaki.core.units import bytes_text, count_text, percent_text, seconds_text
from migaki.report.answers import answer_text
from migaki.report.charts import Curve, line_chart, reliability_chart, running_mean
from migaki.report.exhibits import Hung, hang, kept_exhibits, uses_of, wrong_first
from migaki.report.figures import SHARES, cell, number, shares, signed
from migaki.report.templates import rendered
from migaki.report.transcripts import diff
from migaki.report.words import WORDS, Language, said

__all__ = ["write_report"]

Json = Mapping[str, Any]

_MATRIX_LABELS = 25
"""Above so many labels a matrix can no longer be read; the most confused pairs are listed in any case."""
_FEW_ROWS, _TOO_FEW_ROWS = 30, 10
_WORST, _ANSWERS, _PAIRS, _PARTS, _SUSPICIOUS, _POINTS, _TEXT = 30, 10, 30, 30, 30, 600, 400
_SCRIPT_NAMES = {
    "latin": "script_latin",
    "japanese": "script_japanese",
    "mixed": "script_mixed",
    "other": "script_other",
}

_SHELVES = {"right": "gallery_right", "missed": "gallery_missed", "given": "gallery_given"}
_SPAN_ERRORS = {
    "correct": "span_correct",
    "relabelled": "span_relabelled",
    "moved": "span_moved",
    "mixed_up": "span_mixed_up",
    "missed": "span_missed",
    "spurious": "span_spurious",
}
_GENERAL_NAMES = {
    "topics-en": "general_topics_en",
    "topics-ja": "general_topics_ja",
    "passages-en": "general_passages_en",
    "passages-ja": "general_passages_ja",
    "choices-en": "general_choices_en",
    "choices-ja": "general_choices_ja",
}


def write_report(folder: Path, language: Language = "en") -> str:
    """The page of a finished run, as text.

    Raises:
        DamagedError: a file of the run is missing or unreadable.
    """
    words = WORDS[language]
    results, environment = read_json(folder / "evaluation.json"), read_json(folder / "environment.json")
    recipe, _ = parse_yaml((folder / "recipe.yaml").read_text(encoding="utf-8"), "recipe.yaml")
    history, predictions = _lines(folder / "history.jsonl"), _lines(folder / "predictions.jsonl")
    details = results["details"]
    # Written later than the rest, by `migaki evaluate --errors`.
    errors = read_json(folder / "errors.json") if (folder / "errors.json").is_file() else {}
    general = results.get("generality") or {}
    classes = "per_class" in details
    readable = "confusion" in details and len(details["labels"]) <= _MATRIX_LABELS
    answers = details.get("answers")
    spoken = "wer" in results["metrics"]
    hung = _hung(folder, predictions, details, errors)
    return rendered(
        "page.html.jinja",
        w=words,
        language=language,
        run=folder.name,
        method=recipe["method"]["kind"],
        instruction=not classes and not spoken and results["cost"]["steps"] > 0,
        results=results,
        environment=environment,
        recipe=_recipe(recipe, words),
        data=read_json(folder / "data.json"),
        verdict=_verdict(results, words),
        remarks=_remarks(results, words, language),
        measures=_measures(results, words),
        facts=_facts(results["cost"], environment, words, language),
        general=_general(general, words),
        remedies=[said(text, language) for text in general.get("remedy", ())],
        charts=_charts(history, results, words),
        per_class=_per_class(details) if classes else [],
        support=words["span_count" if answers == "spans" else "rows"],
        span_errors=[(words[_SPAN_ERRORS[name]], n) for name, n in details.get("span_errors", {}).items()],
        matrix=_matrix(details, hung) if readable else None,
        pairs=_pairs(details, hung),
        hung=hung,
        gallery=_gallery(details, hung, words),
        confusions=details.get("confusions", ())[:_PAIRS] if spoken else (),
        parts=_parts(details, _parts_metric(details, spoken), words),
        parts_metric=words["metric_exact_match" if answers else f"metric_{_parts_metric(details, spoken)}"],
        reliability=_reliability(details, words),
        reliability_remarks=_reliability_remarks(details, errors, words),
        suspicious=_suspicious(errors, hung, words),
        n_suspicious=errors.get("counts", {}).get("relabel", 0),
        answers=[] if classes or spoken else _answers(predictions),
        worst=_worst_classified(predictions, answers, hung, words)
        if classes
        else _worst_spoken(predictions, details, hung, words)
        if spoken
        else _worst_generated(predictions, words),
        worst_caption=words["worst_caption_spoken"] if spoken else _worst_caption(classes, answers, words),
        machine=_machine(environment, words, language),
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _recipe(values: dict[str, Any], words: Mapping[str, str]) -> str:
    """All settings; rows that stand in the recipe itself would fill the page, so only their number does."""
    data = {
        name: words["rows_inside"].format(n=len(value)) if isinstance(value, list) else value
        for name, value in values["data"].items()
    }
    return dump_yaml({**values, "data": data})


def _verdict(results: Json, words: Mapping[str, str]) -> dict[str, Any]:
    """The answer of the page: did training help, by how much, how sure is that."""
    metric, gain, cost = results["primary"], results["gain"], results["cost"]
    before, after = results["baseline"]["metrics"][metric], results["metrics"][metric]
    sign = 1 if results["better"] == "max" else -1
    if cost["trainable_parameters"] == 0:
        kind = "untrained"
    elif cost["steps"] and cost["best_step"] == 0:
        kind = "kept"
    elif gain["n"] < _TOO_FEW_ROWS:
        kind = "few"
    elif gain["low"] <= 0 <= gain["high"]:
        kind = "unclear"
    else:
        kind = "better" if sign * gain["value"] > 0 else "worse"
    name = words.get(f"metric_{metric}", metric)
    low, high = (signed(metric, gain[end], words, unit=False) for end in ("low", "high"))
    drawn = shares(metric, [before, after])
    return {
        "kind": kind,
        "title": words[f"verdict_{kind}"],
        "what": words["primary_on"].format(metric=name, n=after["n"]),
        "figures": [
            *(
                (
                    words[when],
                    {
                        "value": number(metric, m["value"]),
                        "interval": words["interval_is"].format(
                            low=number(metric, m["low"]), high=number(metric, m["high"])
                        ),
                    },
                )
                for when, m in (("before", before), ("after", after))
            ),
            (
                words["difference"],
                {
                    "value": signed(metric, gain["value"], words),
                    # A model differs from itself by nothing, without any doubt.
                    "interval": "" if kind == "kept" else words["interval_is"].format(low=low, high=high),
                },
            ),
        ],
        "before": drawn[0],
        "after": drawn[1],
        "axis": "100 %" if metric.startswith(SHARES) else number(metric, max(before["high"], after["high"])),
    }


def _remarks(results: Json, words: Mapping[str, str], language: Language) -> list[tuple[str, bool]]:
    """Sentences under the answer, each with whether it is a warning."""
    details, rows = results["details"], results["rows"]
    verdict = _verdict(results, words)["kind"]
    remarks = [
        (words[f"verdict_{verdict}_why"], False),
        (words["before_is"].format(name=said(results["baseline"]["name"], language)), False),
    ]
    if majority := details.get("majority"):
        accuracy = percent_text(majority["accuracy"]["value"])
        remarks.append((words["majority"].format(label=majority["label"], accuracy=accuracy), False))
    if found := details.get("recall_at"):
        shares = ", ".join(percent_text(figure["value"]) for figure in found.values())
        text = words["found_label"] if "per_class" in details else words["found_answer"]
        remarks.append((text.format(ranks=", ".join(found), shares=shares), False))
    if threshold := details.get("decided", {}).get("threshold"):
        remarks.append((words["threshold"].format(threshold=f"{threshold:.2f}"), False))
    if rows < _FEW_ROWS:
        remarks.append((words["few_rows"].format(n=rows), True))
    if never := details.get("never_predicted"):
        remarks.append((words["never_some"].format(labels=", ".join(never)), True))
    if looped := details.get("looped"):
        remarks.append((words["looped_some"].format(n=len(looped), phrase=shorten(looped[0]["phrase"], 40)), True))
    silent = details.get("silent") or {"invented": []}
    if silent["invented"]:
        remarks.append((words["invented_some"].format(n=len(silent["invented"]), all=silent["rows"]), True))
    if (results.get("generality") or {}).get("forgotten"):
        remarks.append((words["general_lost"], True))
    return remarks


def _measures(results: Json, words: Mapping[str, str]) -> list[dict[str, Any]]:
    rows = []
    for metric, after in results["metrics"].items():
        before = results["baseline"]["metrics"].get(metric)
        drawn = shares(metric, [before, after])
        rows.append(
            {
                "name": words.get(f"metric_{metric}", metric),
                "before": cell(metric, before),
                "after": cell(metric, after),
                "before_share": drawn[0],
                "after_share": drawn[1],
                "n": after["n"],
            }
        )
    return rows


def _general(general: Json, words: Mapping[str, str]) -> list[dict[str, Any]]:
    """What the model can do beside its task, before and after."""
    rows = []
    for part in general.get("parts", ()):
        metric, change = part["metric"], part["change"]
        drawn = shares(metric, [part["before"], part["after"]])
        low, high = (signed(metric, change[end], words, unit=False) for end in ("low", "high"))
        name = words[_GENERAL_NAMES[part["name"]]] if part["name"] in _GENERAL_NAMES else part["name"]
        worse = -part["margin"] if metric == "accuracy" else part["margin"]
        rows.append(
            {
                "name": name,
                "metric": words[f"metric_{metric}"],
                "forgotten": part["forgotten"],
                "before": cell(metric, part["before"]),
                "after": cell(metric, part["after"]),
                "before_share": drawn[0],
                "after_share": drawn[1],
                "change": {"value": signed(metric, change["value"], words, unit=False), "interval": f"{low} – {high}"},
                "margin": signed(metric, worse, words, unit=False),
                "n": part["n"],
            }
        )
    return rows


def _facts(cost: Json, environment: Json, words: Mapping[str, str], language: Language) -> list[tuple[str, str, str]]:
    """What the training took: name, figure, remark."""
    trained, total = cost["trainable_parameters"], cost["total_parameters"]
    share = words["share_of"].format(share=percent_text(trained / max(total, 1)), total=count_text(total))
    return [
        (words["time"], seconds_text(cost["train_seconds"]), ""),
        (words["steps"], str(cost["steps"]), words["best_at"].format(best=cost["best_step"])),
        (words["parameters"], count_text(trained), share),
        (words["memory"], bytes_text(cost["peak_bytes"]), ""),
        (words["licence"], said(str(environment["model"]["licence"]), language), ""),
    ]


def _charts(history: Sequence[Json], results: Json, words: Mapping[str, str]) -> list[Markup]:
    steps = [line for line in history if line["event"] == "step"]
    evaluations = [line for line in history if line["event"] == "evaluation"]
    best = (float(results["cost"]["best_step"]), words["best"])
    window = max(1, len(steps) // 20)
    at, losses = [line["step"] for line in steps], [line["loss"] for line in steps]
    loss = [
        Curve("", "train faint", _thin(at, losses) if window > 1 else []),
        Curve(words["train"], "train", _thin(at, running_mean(losses, window))),
        Curve(words["valid"], "after", [(line["step"], line["metrics"]["loss"]) for line in evaluations]),
    ]
    by_step = words["chart_mean"].format(n=window) if window > 1 else words["chart_by_step"]
    charts = [line_chart(words["metric_loss"], by_step, loss, best)]
    metric = results["primary"]
    if metric != "loss":
        scale, unit = (100, " (%)") if metric.startswith(SHARES) else (1, "")
        points = [(line["step"], scale * line["metrics"][metric]) for line in evaluations]
        name = words.get(f"metric_{metric}", metric) + unit
        charts.append(line_chart(name, words["chart_by_step"], [Curve(words["valid"], "after", points)], best))
    rate = Curve("", "train", _thin(at, [line["learning_rate"] for line in steps]))
    charts.append(line_chart(words["learning_rate"], words["chart_by_step"], [rate]))
    return [chart for chart in charts if chart]


def _thin(xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
    """At most about `_POINTS` of the points, the last one among them."""
    points = list(zip(xs, ys, strict=True))
    return [*points[: -1 : max(1, len(points) // _POINTS)], *points[-1:]]


def _per_class(details: Json) -> list[dict[str, Any]]:
    never = set(details["never_predicted"])
    worst_first = sorted(details["per_class"].items(), key=lambda item: (item[1]["f1"]["value"], item[0]))
    return [
        {
            "label": label,
            "never": label in never,
            "support": figures["support"],
            "predicted": figures["predicted"],
            "precision": percent_text(figures["precision"]["value"]),
            "recall": percent_text(figures["recall"]["value"]),
            "f1": cell("f1", figures["f1"]),
            "f1_share": shares("f1", [figures["f1"]])[0],
        }
        for label, figures in worst_first
    ]


def _hung(folder: Path, predictions: Sequence[Json], details: Json, errors: Json) -> Hung:
    """The files that the page shows."""
    items = {**errors.get("exhibits", {}), **kept_exhibits(folder)}
    if not items:
        return Hung()
    return hang(uses_of(predictions, details, errors.get("suspicious", ())[:_SUSPICIOUS]), items)


def _gallery(details: Json, hung: Hung, words: Mapping[str, str]) -> list[dict[str, Any]]:
    """Files of each label in which one is shown, the label with the lowest F1 first."""
    shelves = []
    for label, figures in sorted(
        details.get("per_class", {}).items(), key=lambda item: (item[1]["f1"]["value"], item[0])
    ):
        rows = [
            (words[name], [{**view, "said": _said(where, row)} for row, view in hung.at(where, label)])
            for where, name in _SHELVES.items()
        ]
        if any(views for _, views in rows):
            shelves.append(
                {"label": label, "f1": percent_text(figures["f1"]["value"]), "rows": [r for r in rows if r[1]]}
            )
    return shelves


def _said(where: str, row: Json) -> str:
    """What a caption says about a file of a gallery: how sure the answer was, and what else it was or was taken for."""
    sure = percent_text(row["confidence"]) if row["confidence"] is not None else ""
    other = {"missed": f"→ {row['output']}", "given": row["target"]}.get(where, "")
    return " · ".join(filter(None, (other, sure)))


def _matrix(details: Json, hung: Hung) -> dict[str, Any]:
    labels, counts = details["labels"], details["confusion"]

    def cell(i: int, j: int) -> dict[str, Any]:
        n, total = counts[i][j], max(sum(counts[i]), 1)
        # From 0.15, so that one row of many can be seen, to 0.6, so that the number on it can be read.
        share = round(0.15 + 0.45 * n / total, 2)
        view = next((view for _, view in hung.at("cell", labels[i], labels[j])), None)
        return {"n": n or "", "kind": "hit" if i == j else "miss", "share": share, "view": view}

    everywhere = range(len(labels))
    return {
        "labels": labels,
        "pictured": any(where[0] == "cell" for where in hung.views),
        "rows": [{"label": labels[i], "cells": [cell(i, j) for j in everywhere]} for i in everywhere],
    }


def _pairs(details: Json, hung: Hung) -> list[dict[str, Any]]:
    return [
        {
            **pair,
            "share": cell("f1", pair["share"]),
            "range": shares("f1", [pair["share"]])[0],
            "views": [view for _, view in hung.at("pair", pair["target"], pair["output"])],
        }
        for pair in details.get("confused_pairs", ())[:_PAIRS]
    ]


def _parts_metric(details: Json, spoken: bool) -> str:
    return "accuracy" if "per_class" in details else "wer" if spoken else "loss"


def _parts(details: Json, metric: str, words: Mapping[str, str]) -> list[dict[str, Any]]:
    """Parts of the test rows, in the order of the evaluation; labels only where they are worse, all have a table of
    their own."""
    chosen = [part for part in details.get("slices", ()) if part["worse"] or part["by"] != "label"][:_PARTS]
    ranges = shares(metric, [part["figure"] for part in chosen])
    return [
        {
            "by": words["label"] if part["by"] == "label" else words.get(f"by_{part['by']}", part["by"]),
            "value": words[_SCRIPT_NAMES[part["value"]]] if part["by"] == "script" else part["value"],
            "worse": part["worse"],
            "figure": cell(metric, part["figure"]),
            "range": range_,
            "n": part["figure"]["n"],
            "rest": cell(metric, part["rest"]),
            "p": f"{part['p']:.3f}" if part["p"] >= 0.001 else "< 0.001",
        }
        for part, range_ in zip(chosen, ranges, strict=True)
    ]


def _reliability(details: Json, words: Mapping[str, str]) -> Markup:
    calibration = details.get("calibration")
    if not calibration:
        return Markup()
    return reliability_chart(words["reliability"], words["reliability_caption"], calibration["bins"])


def _reliability_remarks(details: Json, errors: Json, words: Mapping[str, str]) -> list[str]:
    """What the diagram comes to in one number, and what a temperature would do about it."""
    calibration, remarks = details.get("calibration"), []
    if calibration:
        points = {name: f"{100 * calibration['error'][name]:.1f}" for name in ("value", "low", "high")}
        remarks.append(words["calibration"].format(points=points["value"], low=points["low"], high=points["high"]))
    if scaling := errors.get("temperature"):
        points_after = f"{100 * scaling['after']['error']['value']:.1f}"
        remarks.append(
            words["temperature"].format(temperature=f"{scaling['value']:.2f}", n=scaling["rows"], points=points_after)
        )
    return remarks


def _suspicious(errors: Json, hung: Hung, words: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "text": shorten(row["text"], _TEXT),
            "view": hung.of("suspicious", row),
            "figures": [
                (words["label"], f"{row['label']} ({percent_text(row['confidence'])})"),
                (words["suggested"], f"{row['suggested_label']} ({percent_text(row['suggested_confidence'])})"),
                (words["data_split"], words[row["split"]]),
                (words["place"], f"{row['source']}:{row['line']}"),
            ],
        }
        for row in errors.get("suspicious", ())[:_SUSPICIOUS]
    ]


def _answers(predictions: Sequence[Json]) -> list[Json]:
    return [row for row in predictions if row["stopped"] is not None and row["baseline"]["stopped"] is not None][
        :_ANSWERS
    ]


def _worst_classified(
    predictions: Sequence[Json], answers: str | None, hung: Hung, words: Mapping[str, str]
) -> list[dict[str, Any]]:
    wrong = wrong_first(predictions)
    if answers == "spans":
        # Named parts have no confidence as a whole; what is missing or too much of them says how wrong a row is.
        wrong.sort(key=lambda row: row["part"][0] - row["part"][1])
    return [
        {
            "view": hung.of("worst", row),
            "text": shorten(row["text"] if "text_pair" not in row else f"{row['text']} ‖ {row['text_pair']}", _TEXT),
            "figures": [
                (words["wanted"], shorten(answer_text(answers, row["target"], row["text"], words), _TEXT)),
                (words["prediction"], shorten(answer_text(answers, row["output"], row["text"], words), _TEXT)),
                *([(words["confidence"], percent_text(row["confidence"]))] if row["confidence"] is not None else []),
                (words["place"], f"{row['source']}:{row['line']}"),
            ],
        }
        for row in wrong[:_WORST]
    ]


def _worst_spoken(
    predictions: Sequence[Json], details: Json, hung: Hung, words: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Recordings with most errors, what was written beside what was said."""
    of_place = {(row["source"], row["line"]): row for row in predictions}
    found = []
    for one in details["worst"]:
        row = of_place[one["source"], one["line"]]
        before = row.get("baseline", {}).get("output")
        figures = [
            (words["errors"], words["errors_of"].format(errors=one["errors"], n=one["words"])),
            *([(words["before"], shorten(before, _TEXT))] if before else []),
            (words["place"], f"{row['source']}:{row['line']}"),
        ]
        view = hung.of("worst", row)
        found.append(
            {"view": view, "text": shorten(one["file"], _TEXT), "diff": diff(one["pieces"]), "figures": figures}
        )
    return found


def _worst_caption(classes: bool, answers: str | None, words: Mapping[str, str]) -> str:
    if answers == "spans":
        return words["worst_caption_spans"]
    return words["worst_caption_classify"] if classes else words["worst_caption_generate"]


def _worst_generated(predictions: Sequence[Json], words: Mapping[str, str]) -> list[dict[str, Any]]:
    judged = sorted((row for row in predictions if row["targets"]), key=lambda row: -row["loss"] / row["targets"])
    return [
        {
            "text": shorten(row["text"], _TEXT),
            "figures": [
                (words["wanted"], shorten(row["target"], _TEXT)),
                (words["metric_loss"], f"{row['loss'] / row['targets']:.3f}"),
                (words["place"], f"{row['source']}:{row['line']}"),
            ],
        }
        for row in judged[:_ANSWERS]
    ]


def _machine(environment: Json, words: Mapping[str, str], language: Language) -> list[tuple[str, str]]:
    groups = (environment, *(environment.get(name, {}) for name in ("model", "precision", "packages")))
    return [
        (
            words.get(f"machine_{name}", name),
            bytes_text(float(value)) if name.endswith("_bytes") else said(str(value), language),
        )
        for group in groups
        for name, value in group.items()
        if value is not None and not isinstance(value, Mapping)
    ]
