"""Charts: points where the numbers are, round ticks, names at the ends."""

from __future__ import annotations

import itertools
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migaki.report import write_report
from migaki.report.charts import Curve, line_chart, running_mean, ticks

finite = st.floats(-1e6, 1e6)


def points_of(chart: str, style: str) -> list[tuple[float, float]]:
    (line,) = re.findall(rf'<polyline class="{style}" points="([^"]*)"', chart)
    return [tuple(map(float, point.split(","))) for point in line.split()]


def test_equal_steps_are_equally_far_apart_and_higher_is_up():
    points = points_of(line_chart("Loss", "by step", [Curve("a", "after", [(0, 1.0), (1, 2.0), (2, 3.0)])]), "after")
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.11)
    assert y0 > y1 > y2


def test_curves_share_their_axes():
    chart = line_chart(
        "Loss", "by step", [Curve("a", "train", [(0, 1), (4, 5)]), Curve("b", "after", [(4, 5), (8, 9)])]
    )
    assert points_of(chart, "train")[1] == points_of(chart, "after")[0]


def test_each_curve_ends_with_its_name_and_last_value():
    chart = line_chart(
        "Loss", "by step", [Curve("検証", "after", [(0, 1), (1, 0.5)]), Curve("", "train", [(0, 2), (1, 1)])]
    )
    assert re.findall(r'<text class="end [^>]*>(.*?)</text>', chart) == ["検証 0.5"]


def test_labels_of_curves_that_end_together_do_not_overlap():
    curves = [Curve(name, "after", [(0, 1.0), (9, 0.5 + i / 1000)]) for i, name in enumerate("abc")]
    chart = line_chart("Loss", "by step", curves)
    heights = sorted(float(y) for y in re.findall(r'class="end after" x="[^"]*" y="([^"]*)"', chart))
    assert heights[1] - heights[0] >= 15
    assert heights[2] - heights[1] >= 15
    assert heights[2] < 230


def test_no_points_are_no_chart_and_a_bad_point_is_left_out():
    assert line_chart("Loss", "by step", [Curve("a", "after", [])]) == ""
    assert line_chart("Loss", "by step", [Curve("a", "after", [(0, math.nan)])]) == ""
    chart = line_chart("Loss", "by step", [Curve("a", "after", [(0, 1.0), (1, math.inf), (2, 2.0)])])
    assert len(points_of(chart, "after")) == 2


def test_one_point_and_a_level_curve_are_drawn():
    for points in ([(5, 1.0)], [(0, 0.875), (10, 0.875)], [(0, 0.0), (1, 0.0)]):
        chart = line_chart("Accuracy", "by step", [Curve("a", "after", points)], best=(0, "best"))
        assert len(points_of(chart, "after")) == len(points)
        assert "nan" not in chart


def test_the_best_step_is_marked_where_its_point_is():
    chart = line_chart("Loss", "by step", [Curve("a", "after", [(0, 3), (10, 1), (20, 2)])], best=(10, "best"))
    (x,) = re.findall(r'<line class="best" x1="([^"]*)"', chart)
    assert float(x) == points_of(chart, "after")[1][0]
    assert ">best</text>" in chart


def test_names_cannot_break_out_of_a_chart():
    chart = line_chart('<b>"', "<i>", [Curve("<u>", "after", [(0, 1), (1, 2)])], best=(0, "<s>"))
    assert not re.search("<(b|i|u|s)>", chart)


@given(finite, finite, st.integers(2, 6))
def test_ticks_are_round_and_inside(a, b, about):
    low, high = min(a, b), max(a, b)
    found = ticks(low, high, about)
    assert found == sorted(set(found))
    slack = 1e-9 * max(1.0, abs(low), abs(high))
    assert all(low - slack <= tick <= high + slack for tick in found)
    assert len(found) <= about + 2
    if high - low > 1e-6 * max(abs(low), abs(high), 1.0):
        assert len(found) >= 1
        for step in (b - a for a, b in itertools.pairwise(found)):
            digit = step / 10 ** math.floor(math.log10(step * (1 + 1e-9)))
            assert min(abs(digit - k) for k in (1, 2, 5, 10)) < 1e-3


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30), st.integers(1, 8))
def test_a_running_mean_is_the_mean_of_its_window(values, window):
    found = running_mean(values, window)
    assert len(found) == len(values)
    for i, mean in enumerate(found):
        part = values[max(0, i - window + 1) : i + 1]
        assert mean == pytest.approx(sum(part) / len(part), abs=1e-9)


def test_the_charts_of_a_run_hold_every_step_and_evaluation(classified):
    history = [json.loads(line) for line in (classified / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in history if line["event"] == "step"]
    evaluations = [line for line in history if line["event"] == "evaluation"]
    _, loss, accuracy, rate = re.findall("<svg.*?</svg>", write_report(classified))
    assert len(points_of(loss, "train")) == len(points_of(rate, "train")) == len(steps)
    assert len(points_of(loss, "after")) == len(points_of(accuracy, "after")) == len(evaluations)
    last = 100 * evaluations[-1]["metrics"]["accuracy"]
    assert f">Validation {last:.3g}</text>" in accuracy
