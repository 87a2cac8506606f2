"""What the page says about errors: parts of the rows, confused pairs, confidence, suspicious labels."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from migaki.report import write_report
from migaki.report.charts import reliability_chart
from migaki.report.words import WORDS


def changed(folder: Path, home: Path, change=lambda details: None, errors=None) -> str:
    """The page of a copy of a run with its details changed and, where given, with a record of errors beside it."""
    copy = Path(shutil.copytree(folder, home / folder.name))
    results = json.loads((copy / "evaluation.json").read_text(encoding="utf-8"))
    change(results["details"])
    (copy / "evaluation.json").write_text(json.dumps(results), encoding="utf-8")
    if errors is not None:
        (copy / "errors.json").write_text(json.dumps(errors), encoding="utf-8")
    return write_report(copy)


def table(page: str, style: str) -> list[list[str]]:
    """The cells of a table's body as text, row by row."""
    body = page[page.index(f'<table class="{style}">') :]
    body = body[body.index("<tbody>") : body.index("</table>")]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)]
    return [[" ".join(re.sub(r"<[^>]*>", " ", cell).split()) for cell in row] for row in rows]


def part(by: str, value: str, share: float, worse: bool = False, p: float = 1.0):
    figure = {"value": share, "low": share - 0.1, "high": share + 0.1, "n": 40}
    return {"by": by, "value": value, "figure": figure, "rest": {**figure, "value": 0.8}, "p": p, "worse": worse}


def test_what_is_worse_is_marked_and_labels_that_are_not_have_their_own_table(classified, tmp_path):
    def change(details):
        details["slices"] = [
            part("label", "billing", 0.5, worse=True, p=0.0004),
            part("script", "mixed", 0.6, worse=True, p=0.0312),
            part("label", "delivery", 0.7),
            part("length", "≤ 12", 0.75),
            part("source", "a<b>.csv", 0.8),
        ]

    page = changed(classified, tmp_path, change)
    assert table(page, "parts") == [
        ["Label: billing worse than the others", "50.0 % 40.0 – 60.0 %", "", "40", "80.0 %", "&lt; 0.001"],
        ["Script: Latin and Japanese worse than the others", "60.0 % 50.0 – 70.0 %", "", "40", "80.0 %", "0.031"],
        ["Length in characters: ≤ 12", "75.0 % 65.0 – 85.0 %", "", "40", "80.0 %", "1.000"],
        ["File: a&lt;b&gt;.csv", "80.0 % 70.0 – 90.0 %", "", "40", "80.0 %", "1.000"],
    ]


def test_the_parts_of_a_real_run_are_those_of_its_evaluation(classified, generated):
    for folder in (classified, generated):
        details = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["details"]
        shown = [s for s in details["slices"] if s["worse"] or s["by"] != "label"]
        assert shown
        assert [row[3] for row in table(write_report(folder), "parts")] == [str(s["figure"]["n"]) for s in shown]
    losses = [row[1] for row in table(write_report(generated), "parts")]
    assert all(re.fullmatch(r"\d+\.\d+ \d+\.\d+ – \d+\.\d+", loss) for loss in losses), losses


def test_confused_pairs_stand_beside_the_matrix_with_their_share(classified):
    details = json.loads((classified / "evaluation.json").read_text(encoding="utf-8"))["details"]
    page = write_report(classified)
    assert '<table class="matrix">' in page
    rows = table(page, "pairs")
    assert len(rows) == len(details["confused_pairs"]) > 0
    for row, pair in zip(rows, details["confused_pairs"], strict=True):
        assert row[2] == str(pair["n"])
        assert row[3].startswith(
            f"{100 * pair['n'] / sum(details['confusion'][details['labels'].index(pair['target'])]):.1f} %"
        )


def test_a_bin_stands_at_its_confidence_and_accuracy_and_the_calibrated_one_on_the_line():
    def bin_(confidence, accuracy, n, low=None, high=None):
        measure = {"value": accuracy, "low": low or accuracy, "high": high or accuracy, "n": n}
        return {"confidence": confidence, "accuracy": measure, "n": n}

    chart = reliability_chart("Title", "", [bin_(0.5, 0.5, 100, 0.25, 0.75), bin_(0.75, 0.25, 25)])
    circles = [tuple(map(float, c)) for c in re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"', chart)]
    (x1, x2, y1, y2) = map(float, *re.findall(r'class="best" x1="(.*?)" x2="(.*?)" y1="(.*?)" y2="(.*?)"', chart))
    assert circles[0][:2] == pytest.approx(((x1 + x2) / 2, (y1 + y2) / 2), abs=0.1)
    assert circles[1][:2] == pytest.approx((x1 + 0.75 * (x2 - x1), y1 + 0.25 * (y2 - y1)), abs=0.1)
    assert y2 < y1  # up is more
    # A quarter of the rows: half of the width that comes on top of the smallest dot.
    assert circles[0][2] - 2 == pytest.approx(2 * (circles[1][2] - 2))
    low, high = map(float, re.findall(r'class="spread after" x1=".*?" x2=".*?" y1="(.*?)" y2="(.*?)"', chart)[0])
    assert (low, high) == pytest.approx((y1 + 0.25 * (y2 - y1), y1 + 0.75 * (y2 - y1)), abs=0.1)


def test_the_calibration_error_and_the_temperature_are_said_in_points(classified, tmp_path):
    def change(details):
        details["calibration"]["error"] = {"value": 0.083, "low": 0.0, "high": 0.1221, "n": 18}

    after = {"error": {"value": 0.0312, "low": 0, "high": 0.1, "n": 18}}
    errors = {"temperature": {"value": 1.4142, "rows": 9, "after": after}, "suspicious": [], "counts": {"relabel": 0}}
    page = changed(classified, tmp_path, change, errors)
    assert (
        "misses its accuracy by 8.3 points on average (expected calibration error; 95 % interval: 0.0 to 12.2)." in page
    )
    assert "divided by 1.41, fitted on 9 validation rows, it would miss by 3.1 points." in page
    assert WORDS["en"]["suspicious"] not in page


def test_suspicious_labels_are_shown_as_they_are_with_their_place(classified, tmp_path):
    row = {
        "kind": "relabel",
        "split": "valid",
        "source": "<i>rows.jsonl",
        "line": 12,
        "text": "<script>alert(1)</script>",
        "label": "<b>",
        "suggested_label": "billing",
        "confidence": 0.0123,
        "suggested_confidence": 0.9,
    }
    page = changed(classified, tmp_path, errors={"temperature": None, "suspicious": [row], "counts": {"relabel": 7}})
    section = page[page.index(WORDS["en"]["suspicious"]) :]
    section = section[: section.index("</section>")]
    assert "The first 1 of 7 labels to check." in section
    assert "<script" not in section
    for shown in ("&lt;script&gt;", "&lt;b&gt; (1.2 %)", "billing (90.0 %)", "Validation", "&lt;i&gt;rows.jsonl:12"):
        assert shown in section


def test_a_run_from_before_these_figures_has_a_page_without_them(classified, tmp_path):
    def change(details):
        for name in ("slices", "calibration", "confused_pairs"):
            del details[name]

    page = changed(classified, tmp_path, change)
    for name in ("parts", "reliability", "confused_pairs", "suspicious"):
        assert f"<h2>{WORDS['en'][name]}</h2>" not in page
    assert f"<h2>{WORDS['en']['confusion']}</h2>" in page
