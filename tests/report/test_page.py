"""The page: what it says, that it says it in both languages, and that nothing breaks out of it or is fetched by it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from migaki.core.types import Finding, ended
from migaki.core.units import percent_text
from migaki.report import write_report
from migaki.report.words import WORDS
from pages import Page


def with_results(folder: Path, home: Path, change) -> Path:
    """A copy of a run with its results changed."""
    copy = Path(shutil.copytree(folder, home / folder.name))
    results = json.loads((copy / "evaluation.json").read_text(encoding="utf-8"))
    change(results)
    (copy / "evaluation.json").write_text(json.dumps(results), encoding="utf-8")
    return copy


def results_of(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))


@pytest.fixture(params=["classified", "generated"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_page_fetches_nothing_and_runs_nothing(folder, language):
    text = write_report(folder, language)
    page = Page(text)
    names = {name for name, _ in page.elements}
    assert not names & {"script", "img", "iframe", "object", "embed", "base", "form"}
    for name, attributes in page.elements:
        assert not any(key.startswith("on") for key in attributes)
        for key in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(key) in (None, "data:,"), (name, attributes)
    (css,) = page.all("style")
    assert "url(" not in css
    assert "@import" not in css
    policy = [attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_hostile_texts_are_shown_as_they_are(classified):
    text = write_report(classified)
    assert "<script" not in text
    assert "<b>" not in text
    assert "<i>rows" not in text
    page = Page(text)
    assert "<b>technical & more</b>" in page.all("th")
    assert any("<i>rows.jsonl" in place for place in page.all("td", "place"))
    shown = [said for said in page.all("p", "said") if "alert('x')" in said]
    assert shown
    assert all(said.startswith("<script>alert('x')</script>&amp; \"quoted\" </style><img src=") for said in shown)


def test_the_page_says_its_language_and_has_one_main_heading(folder):
    for language in ("en", "ja"):
        page = Page(write_report(folder, language))
        assert [attributes["lang"] for name, attributes in page.elements if name == "html"] == [language]
        levels = [name for name, _ in page.elements if re.fullmatch("h[1-6]", name)]
        assert levels.count("h1") == 1
        assert levels[0] == "h1"
        assert set(levels) <= {"h1", "h2", "h3"}
        scopes = [attributes.get("scope") for name, attributes in page.elements if name == "th"]
        assert set(scopes) <= {"row", "col"}


def test_the_metrics_table_gives_the_figures_of_the_evaluation_in_words(classified):
    results = results_of(classified)
    for language in ("en", "ja"):
        text = write_report(classified, language)
        table = text[text.index('<table class="metrics">') : text.index("</table>")]
        rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)[1:]]
        assert [row[0] for row in rows] == [WORDS[language][f"metric_{name}"] for name in results["metrics"]]
        for row, (name, after) in zip(rows, results["metrics"].items(), strict=True):
            for cell, measure in ((row[1], results["baseline"]["metrics"][name]), (row[2], after)):
                value, interval = re.fullmatch("<strong>(.*)</strong><small>(.*)</small>", cell).groups()
                if name == "loss":
                    assert float(value) == pytest.approx(measure["value"], rel=1e-3)
                    assert [float(end) for end in interval.split(" – ")] == pytest.approx(
                        [measure["low"], measure["high"]], rel=1e-3
                    )
                else:
                    assert value == percent_text(measure["value"])
                    assert interval == f"{100 * measure['low']:.1f} – {percent_text(measure['high'])}"
            assert row[4] == str(after["n"])


def test_bars_stand_where_the_intervals_are(classified):
    accuracy = results_of(classified)["metrics"]["accuracy"]
    styles = [
        attributes["style"]
        for _, attributes in Page(write_report(classified)).elements
        if attributes.get("class") == "range after"
    ]
    numbers = [float(number) for number in re.findall(r"[\d.]+", styles[0])]
    expected = [100 * accuracy["low"], 100 * (accuracy["high"] - accuracy["low"]), 100 * accuracy["value"]]
    assert numbers == pytest.approx(expected, abs=0.006)


def test_the_matrix_and_the_table_of_labels_give_the_counts_of_the_evaluation(classified):
    details, text = results_of(classified)["details"], write_report(classified)
    table = text[text.index('<table class="matrix">') :]
    rows = re.findall(r"<tr>(.*?)</tr>", table[: table.index("</table>")])[1:]
    cells = [[int(n or 0) for n in re.findall(r"<td[^>]*>(\d*)</td>", row)] for row in rows]
    assert cells == details["confusion"]
    shares = [figures["f1"]["value"] for figures in details["per_class"].values()]
    classes = text[text.index('<table class="classes">') :]
    shown = re.findall(r"<strong>(.*?)</strong>", classes[: classes.index("</table>")])
    assert shown == [percent_text(share) for share in sorted(shares)]


def test_more_labels_than_a_matrix_can_show_become_pairs(classified, tmp_path):
    def widen(results):
        details = results["details"]
        details["labels"] = [f"label {i}" for i in range(40)]
        details["confusion"] = [[0] * 40 for _ in range(40)]
        share = {"value": 0.9, "low": 0.6, "high": 0.98, "n": 10}
        details["confused_pairs"] = [{"target": "label 7", "output": "label 1", "n": 9, "share": share}]

    page = Page(write_report(with_results(classified, tmp_path, widen)))
    assert not page.all("table", "matrix")
    cells = page.all("td")
    first = cells.index("label 7")
    assert cells[first : first + 4] == ["label 7", "label 1", "9", "90.0 %60.0 – 98.0 %"]


@pytest.mark.parametrize(
    ("primary", "better", "gain", "best_step", "title", "difference"),
    [
        ("accuracy", "max", (0.1, 0.02, 0.18), 6, "Training helped", "+10.0 points"),
        ("accuracy", "max", (-0.1, -0.18, -0.02), 6, "Training made it worse", "−10.0 points"),
        ("accuracy", "max", (0.1, -0.02, 0.22), 6, "Not certain that training helped", "+10.0 points"),
        ("loss", "min", (-0.5, -0.7, -0.3), 6, "Training helped", "−0.5000"),
        ("loss", "min", (0.5, 0.3, 0.7), 6, "Training made it worse", "+0.5000"),
        ("accuracy", "max", (0.0, -0.05, 0.05), 0, "Training did not help", "±0.0 points"),
    ],
)
def test_the_headline_is_the_answer(classified, tmp_path, primary, better, gain, best_step, title, difference):
    def change(results):
        results |= {"primary": primary, "better": better}
        results["gain"] = dict(zip(("value", "low", "high"), gain, strict=True)) | {"n": 18}
        results["cost"]["best_step"] = best_step

    page = Page(write_report(with_results(classified, tmp_path, change)))
    assert page.all("h1") == [title]
    assert page.all("title")[0].startswith(title)
    assert page.all("dd")[2].startswith(difference)


def test_a_handful_of_rows_never_proves_anything(classified, tmp_path):
    """One row that got better: its interval has no width and leaves out zero."""

    def change(results):
        results["gain"] = {"value": -0.5, "low": -0.5, "high": -0.5, "n": 1}
        results |= {"primary": "loss", "better": "min"}
        results["cost"]["best_step"] = 6

    page = Page(write_report(with_results(classified, tmp_path, change)))
    assert page.all("h1") == ["Not certain that training helped"]
    assert page.all("li")[0].startswith("So few test rows cannot tell.")


def test_a_method_that_trains_nothing_says_so(classified, tmp_path):
    def change(results):
        results["cost"] |= {"steps": 0, "best_step": 0, "trainable_parameters": 0}

    copy = with_results(classified, tmp_path, change)
    (copy / "history.jsonl").unlink()
    page = Page(write_report(copy))
    assert page.all("h1") == ["Nothing was trained"]
    assert [name for name, _ in page.elements if name == "polyline"] == []


def test_a_generator_that_was_trained_on_conversations_was_instruction_tuned(generated, classified):
    assert "instruction tuning by full" in write_report(generated)
    assert "指示チューニング（full）" in write_report(generated, "ja")
    assert "instruction tuning" not in write_report(classified)


def test_the_answer_of_a_real_run_is_that_of_its_gain(classified):
    gain = results_of(classified)["gain"]
    results = results_of(classified)
    assert gain["value"] == pytest.approx(
        results["metrics"]["accuracy"]["value"] - results["baseline"]["metrics"]["accuracy"]["value"]
    )
    assert gain["low"] <= gain["value"] <= gain["high"]


def test_few_rows_and_labels_never_predicted_are_warned_of(classified, tmp_path):
    def change(results):
        results["rows"] = 12
        results["details"]["never_predicted"] = ["billing"]

    warnings = Page(write_report(with_results(classified, tmp_path, change))).all("li", "flag")
    assert warnings == [
        "With only 12 test rows every interval here is rough.",
        "Labels in the test rows that were never predicted: billing.",
    ]


@pytest.mark.parametrize(("which", "what"), [("classified", "label"), ("generated", "answer")])
def test_whether_the_right_one_was_found_is_told_apart_from_the_answers(which, what, request, tmp_path):
    def change(results):
        shares = zip(("1", "3", "5", "10"), (0.5, 0.75, 0.875, 1.0), strict=True)
        results["details"]["recall_at"] = {k: {"value": v, "low": 0.0, "high": 1.0, "n": 8} for k, v in shares}

    text = WORDS["en"][f"found_{what}"].format(ranks="1, 3, 5, 10", shares="50.0 %, 75.0 %, 87.5 %, 100.0 %")
    folder = request.getfixturevalue(which)
    assert text in Page(write_report(with_results(folder, tmp_path, change))).all("li")
    assert text not in Page(write_report(folder)).all("li")


def test_a_figure_without_bounds_is_written_and_not_drawn(generated, tmp_path):
    def change(results):
        results["metrics"]["perplexity"] = {"value": float("inf"), "low": 9.0, "high": float("inf"), "n": 6}

    text = write_report(with_results(generated, tmp_path, change))
    assert "<strong>inf</strong>" in text
    assert "nan" not in text


def test_worst_errors_come_most_confident_first(classified):
    rows = [json.loads(line) for line in (classified / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    wrong = sorted((row["confidence"] for row in rows if row["output"] != row["target"]), reverse=True)
    text = write_report(classified)
    shown = re.findall(r"<dt>Confidence</dt><dd>(.*?)</dd>", text)
    assert shown == [percent_text(confidence) for confidence in wrong]


def test_answers_before_and_after_stand_side_by_side(generated):
    rows = [json.loads(line) for line in (generated / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    answered = [row for row in rows if row["stopped"] is not None]
    assert len(answered) == 4
    said = Page(write_report(generated)).all("dd", "said")
    assert list(said[::3]) == [row["target"] for row in answered]
    for after, row in zip(said[2::3], answered, strict=True):
        assert after.startswith(" ".join(row["output"].split()) or "—")
        assert ("cut off at the length limit" in after) == (not row["stopped"])


def test_findings_are_whole_sentences(classified):
    findings = json.loads((classified / "data.json").read_text(encoding="utf-8"))["findings"]
    assert {finding["level"] for finding in findings} == {"note", "warning"}
    items = [item for item in Page(write_report(classified)).all("li") if item.startswith(("Note", "Warning"))]
    for item, finding in zip(items, findings, strict=True):
        sentences = " ".join(f"{part}." for part in (finding["message"], finding["remedy"]) if part)
        assert item.startswith(f"{finding['level'].capitalize()} {sentences}")
        assert ".." not in item


@pytest.mark.parametrize("stop", ["", "."])
def test_a_finding_has_one_stop_after_each_sentence(stop):
    finding = Finding("note", f"2 rows repeat{stop}", 2, ("a.csv:3",), f"Remove them{stop}")
    assert str(finding) == "2 rows repeat (first: a.csv:3). Remove them."
    assert str(Finding("note", f"2 rows repeat{stop}", 2)) == "2 rows repeat."
    assert ended("本当ですか？") == "本当ですか？"


def test_rows_inside_a_recipe_are_counted_and_not_listed(classified, tmp_path):
    copy = Path(shutil.copytree(classified, tmp_path / "run"))
    recipe = (copy / "recipe.yaml").read_text(encoding="utf-8")
    inline = re.sub(
        r"  train: .*\n", "  train:\n  - text: secret\n    label: a\n  - text: other\n    label: b\n", recipe
    )
    (copy / "recipe.yaml").write_text(inline, encoding="utf-8")
    (shown,) = Page(write_report(copy)).all("pre")
    assert "train: 2 rows, in recipe.yaml valid: 0.1" in shown
    assert "secret" not in shown
    assert "learning_rate: 0.001" in shown
