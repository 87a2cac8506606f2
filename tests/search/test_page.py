"""The page of a search: both languages, every word, and pictures of what was found."""

from __future__ import annotations

import json
import re
import string
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from migaki.report import write_search
from migaki.report.search_charts import Axis, Point, bar_chart, dot_chart, parallel_chart
from migaki.report.search_words import SEARCH

HOME = files("migaki.report")
SOURCES = "".join(HOME.joinpath(name).read_text(encoding="utf-8") for name in ("search.py", "search.html.jinja"))


def trial(number: int, value: float | None, rate: float, **facts: Any) -> dict[str, Any]:
    return {
        "number": number,
        "origin": "tpe" if number > 1 else "default",
        "settings": {"training.learning_rate": rate, "method.targets": ["query"] if number % 2 else "all-linear"},
        "state": "finished",
        "value": value,
        "loss": 0.5,
        "share": 1.0,
        "seconds": 2.0,
        "looks": 4,
        "parameters": 100 * number,
        "latency": None,
        "reason": None,
        **facts,
    }


def facts(**changes: Any) -> dict[str, Any]:
    measure = {"value": 0.9, "low": 0.85, "high": 0.95, "n": 60, "seeds": [0.9]}
    best = {
        "settings": {"training.learning_rate": 3e-4, "method.targets": ["query"]},
        "valid": measure,
        "test": measure,
    }
    return {
        "task": "classify_text",
        "model": "<b>model</b>",
        "method": "lora",
        "metric": "accuracy",
        "better": "max",
        "rows": {"train": 100, "valid": 30, "test": 60},
        "space": {
            "training.learning_rate": {"log": [1e-5, 1e-3]},
            "method.targets": {"choice": ["all-linear", ["query"]]},
        },
        "sampler": "tpe",
        "pruner": "halving",
        "second": "parameters",
        "trials": [
            trial(1, 0.7, 2e-4),
            trial(2, 0.8, 3e-5, state="stopped", share=1 / 3),
            trial(3, None, 9e-4, state="failed", reason="the loss is nan", seconds=None),
            trial(4, 0.9, 3e-4),
        ],
        "best": best,
        "best_is": "trial 4",
        "default": best,
        "gain": {"value": 0.2, "low": 0.1, "high": 0.3},
        "p_value": 0.0004,
        "beats_default": True,
        "recipe": "runs/search-1/best.yaml",
        "finals": [{"name": "default", **best}, {"name": "trial 4", **best}, {"name": "trial 2", **best, "test": None}],
        "seeds": 3,
        "looks": 47,
        "seed_noise": 0.01,
        "importance": {"training.learning_rate": 0.8, "method.targets": 0.2},
        "plateaus": [
            {
                "setting": "training.learning_rate",
                "low": 2e-4,
                "high": 8e-4,
                "trials": 3,
                "margin": 0.01,
                "whole": False,
            }
        ],
        "pareto": [1, 4],
        "order": [4, 1, 2],
        "seconds": 75.0,
        **changes,
    }


@pytest.fixture
def page(tmp_path: Path) -> Any:
    def page(language: str = "en", **changes: Any) -> str:
        (tmp_path / "search.json").write_text(json.dumps(facts(**changes)), encoding="utf-8")
        return write_search(tmp_path, language)  # type: ignore[arg-type]

    return page


def fields(text: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name)


def test_both_languages_have_the_same_words_with_the_same_blanks():
    english, japanese = SEARCH["en"], SEARCH["ja"]
    assert list(english) == sorted(english)
    assert list(english) == list(japanese)
    for key in english:
        assert fields(english[key]) == fields(japanese[key]), key
        assert re.search(r"[ぁ-ん一-龥ァ-ヶ]", japanese[key]), key


def test_every_word_is_used_and_every_word_that_is_asked_for_is_there():
    for key in SEARCH["en"]:
        put_together = key.startswith(("state_", "objective_", "by_", "plateau"))
        assert put_together or re.search(rf"""w\.{key}\b|["']{key}["']""", SOURCES), key
    asked = {*re.findall(r"\bw\.(\w+)", SOURCES), *re.findall(r"""words\["(\w+)"\]""", SOURCES)}
    assert asked <= set(SEARCH["en"])


def test_a_win_is_the_headline_with_its_interval_and_the_looks(page):
    text = page()
    assert "<h1>trial 4 beats the default</h1>" in text
    assert "gains +20.0 points (+10.0 to +30.0; p = &lt; 0.001)" in text
    assert "looked at 47 times" in text
    assert "runs/search-1/best.yaml" in text
    assert "between 0.0002 and 0.0008 nothing changes" in text


def test_where_nothing_is_better_the_headline_says_so(page):
    text = page(beats_default=False, p_value=0.4)
    assert "<h1>Nothing better than the default was found</h1>" in text
    assert "The default is kept." in text


def test_the_page_is_safe_whole_and_japanese_where_asked(page):
    text = page("ja")
    assert '<html lang="ja">' in text
    assert "試行 4は既定の設定より良い" in text
    assert "<b>model</b>" not in text
    assert "src=" not in text
    assert "http" not in text.replace("http-equiv", "")


def test_a_failed_trial_is_listed_with_its_reason(page):
    assert "the loss is nan" in page()


def test_a_search_of_the_default_alone_has_a_page_too(page):
    text = page(
        trials=[trial(1, 0.7, 2e-4)],
        best_is="default",
        beats_default=False,
        importance={},
        plateaus=[],
        second=None,
        order=[1],
    )
    assert "No trial but the default has a figure" in text
    assert "Too few trials" in text


def test_the_line_of_the_best_keeps_its_height_until_it_is_beaten():
    chart = dot_chart("t", "c", [Point(0, 0), Point(2, 1)], [(0, 0.0), (2, 1.0)])
    (points,) = re.findall(r'<polyline class="after" points="([^"]+)"', chart)
    (_, y0), (x1, y1), (x2, y2) = (map(float, p.split(",")) for p in points.split())
    assert y0 == y1
    assert x1 == x2
    assert y2 < y1  # upwards on the page


def test_a_figure_that_is_no_number_is_not_drawn():
    assert dot_chart("t", "c", [Point(1, float("nan"))]) == ""
    chart = dot_chart("t", "c", [Point(0.0, 1.0), Point(1e-3, 1.0)], log=True)
    assert chart.count("<circle") == 1  # zero has no logarithm


def test_every_trial_is_a_line_across_all_axes():
    axes = [Axis("rate", [0.0, 1.0], [(0, "1e-05")]), Axis("accuracy", [1.0, 0.0], [])]
    chart = parallel_chart("t", "c", axes, [True, False])
    lines = re.findall(r'<polyline class="([^"]+)" points="([^"]+)"', chart)
    assert [style for style, _ in lines] == ["train faint", "after"]
    assert all(len(points.split()) == 2 for _, points in lines)


def test_bars_are_as_long_as_their_shares():
    widths = [
        float(w) for w in re.findall(r'width="([\d.]+)" height="12"', bar_chart("t", "c", {"a": 0.25, "b": 0.75}))
    ]
    assert widths[0] == pytest.approx(3 * widths[1], rel=0.01)
