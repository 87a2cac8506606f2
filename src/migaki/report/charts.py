"""Curves as inline SVG, drawn without a library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any
from unicodedata import east_asian_width

from markupsafe import Markup

__all__ = ["Curve", "Dot", "line_chart", "reliability_chart", "running_mean", "scatter_chart", "ticks"]

# Units of the drawing; on a wide screen about 1.1 pixels each, on a phone about 0.8, so that text stays readable.
_WIDTH, _HEIGHT, _TOP, _BOTTOM, _LETTER = 440, 230, 14, 26, 8


@dataclass(frozen=True)
class Curve:
    """One line of a chart: its name (written at its end, unless empty), its style classes, its points."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Dot:
    """One method in a picture of quality against cost."""

    name: str
    x: float
    y: Mapping[str, float]
    """value, low, high"""
    chosen: bool


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) within low..high, at most a few more than `about`.

    >>> ticks(0.0, 0.93, 4)
    [0.0, 0.2, 0.4, 0.6, 0.8]
    >>> ticks(3.0, 3.0, 4)
    [3.0]
    """
    if high - low < 1e-300:
        return [low]
    size = 10.0 ** math.floor(math.log10((high - low) / about))
    step = next(size * k for k in (1, 2, 5, 10) if (high - low) / (size * k) <= about + 1)
    first = math.ceil(low / step - 1e-9)
    # Multiplied anew each time and rounded: sums of 0.1 would print as 0.30000000000000004.
    return [float(f"{k * step:.12g}") for k in range(first, math.floor(high / step + 1e-9) + 1)]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and up to `window - 1` before it.

    >>> running_mean([4.0, 2.0, 0.0], 2)
    [4.0, 3.0, 1.0]
    """
    totals = [0.0, *accumulate(values)]
    return [(totals[i] - totals[max(0, i - window)]) / min(i, window) for i in range(1, len(totals))]


def line_chart(title: str, x_label: str, curves: Sequence[Curve], best: tuple[float, str] | None = None) -> Markup:
    """A figure with axes, round ticks, and each curve's name and last value at its end; empty without a finite point.

    Args:
        best: x of a vertical mark and its name.
    """
    curves = [
        Curve(c.name, c.style, [(x, y) for x, y in c.points if math.isfinite(x) and math.isfinite(y)]) for c in curves
    ]
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return Markup()
    xs, ys = ([point[axis] for curve in curves for point in curve.points] for axis in (0, 1))
    x_low, x_high, y_low, y_high = min(xs), max(xs), min(ys), max(ys)
    y_ticks, x_ticks = ticks(y_low, y_high, 4), [x for x in ticks(x_low, x_high, 4) if x == int(x)]
    left = 10 + max(_width(f"{y:g}") for y in y_ticks)
    ends = [f"{curve.name} {curve.points[-1][1]:.3g}" if curve.name else "" for curve in curves]
    right, floor = _WIDTH - 10 - max(_width(text) for text in ends), _HEIGHT - _BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        up = (y - y_low) / (y_high - y_low) if y_high > y_low else 0.5
        return round(left + across * (right - left), 1), round(floor - up * (floor - _TOP), 1)

    parts = [Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, _HEIGHT, title)]
    for value in y_ticks:
        y = at(x_low, value)[1]
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(left, right, y, y))
        parts.append(Markup('<text x="{}" y="{}" text-anchor="end">{:g}</text>').format(left - 6, y + 4, value))
    for value in x_ticks:
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="middle">{:g}</text>').format(
                at(value, y_low)[0], _HEIGHT - 6, value
            )
        )
    if best is not None and x_low <= best[0] <= x_high:
        x = at(best[0], y_low)[0]
        parts.append(Markup('<line class="best" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x, x, _TOP, floor))
        parts.append(Markup('<text x="{}" y="10" text-anchor="middle">{}</text>').format(x, best[1]))
    for curve in curves:
        points = [at(*point) for point in curve.points]
        line = " ".join(f"{x},{y}" for x, y in points)
        parts.append(Markup('<polyline class="{}" points="{}"/>').format(curve.style, line))
        # A curve of few points is read point by point.
        for x, y in points if len(points) <= 40 else []:
            parts.append(Markup('<circle class="{}" cx="{}" cy="{}" r="2.6"/>').format(curve.style, x, y))
    named = [(curve.style, text, at(*curve.points[-1])) for curve, text in zip(curves, ends, strict=True) if text]
    for (style, text, (x, _)), y in zip(named, _apart([y for _, _, (_, y) in named]), strict=True):
        parts.append(Markup('<text class="end {}" x="{}" y="{}">{}</text>').format(style, x + 8, y + 4, text))
    parts.append(Markup("</svg>"))
    caption = Markup('<figcaption><strong>{}</strong> <span class="soft">{}</span></figcaption>').format(title, x_label)
    return Markup("<figure>{}{}</figure>").format(caption, Markup().join(parts))


def reliability_chart(title: str, caption: str, bins: Sequence[Mapping[str, Any]]) -> Markup:
    """Accuracy (up) over confidence (across), both 0 to 100 %: a dot and its interval for each bin, the larger the more
    rows are in it, and the dashed line on which the two agree.

    Args:
        bins: each with the mean `confidence`, the `accuracy` (value, low, high) and `n`.
    """
    left, right, floor = 40, _WIDTH - 12, _HEIGHT - _BOTTOM
    most = max(b["n"] for b in bins)

    def at(confidence: float, accuracy: float) -> tuple[float, float]:
        return round(left + confidence * (right - left), 1), round(floor - accuracy * (floor - _TOP), 1)

    parts = [Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, _HEIGHT, title)]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = at(share, share)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(left, right, y, y))
        parts.append(Markup('<text x="{}" y="{}" text-anchor="end">{:.0f}</text>').format(left - 6, y + 4, 100 * share))
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="middle">{:.0f}</text>').format(x, _HEIGHT - 6, 100 * share)
        )
    (x1, y1), (x2, y2) = at(0, 0), at(1, 1)
    parts.append(Markup('<line class="best" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x1, x2, y1, y2))
    for b in bins:
        (x, y), accuracy = at(b["confidence"], b["accuracy"]["value"]), b["accuracy"]
        ends = at(0, accuracy["low"])[1], at(0, accuracy["high"])[1]
        parts.append(Markup('<line class="spread after" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x, x, *ends))
        # Areas, not widths, are in proportion to the rows.
        radius = round(2 + 5 * math.sqrt(b["n"] / most), 1)
        parts.append(Markup('<circle class="after" cx="{}" cy="{}" r="{}"/>').format(x, y, radius))
    parts.append(Markup("</svg>"))
    text = Markup('<figcaption><strong>{}</strong> <span class="soft">{}</span></figcaption>').format(title, caption)
    return Markup("<figure>{}{}</figure>").format(text, Markup().join(parts))


def scatter_chart(title: str, caption: str, dots: Sequence[Dot]) -> Markup:
    """A dot with its interval and name for each method; powers of ten across, because costs differ by thousands.

    What costs less than a tenth of a second stands at the left edge.
    """
    dots = [dot for dot in dots if all(math.isfinite(v) for v in (dot.y["value"], dot.y["low"], dot.y["high"]))]
    if not dots:
        return Markup()
    costs = [math.log10(max(dot.x, 0.1)) for dot in dots]
    x_low, x_high = math.floor(min(costs)), max(math.ceil(max(costs)), math.floor(min(costs)) + 1)
    y_low, y_high = min(dot.y["low"] for dot in dots), max(dot.y["high"] for dot in dots)
    y_ticks = ticks(y_low, y_high, 4)
    left = 10 + max(_width(f"{y:g}") for y in y_ticks)
    right, floor = _WIDTH - 10 - max(_width(dot.name) for dot in dots), _HEIGHT - _BOTTOM

    def at(cost: float, y: float) -> tuple[float, float]:
        up = (y - y_low) / (y_high - y_low) if y_high > y_low else 0.5
        return round(left + (cost - x_low) / (x_high - x_low) * (right - left), 1), round(
            floor - up * (floor - _TOP), 1
        )

    parts = [Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, _HEIGHT, title)]
    for value in y_ticks:
        y = at(x_low, value)[1]
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(left, right, y, y))
        parts.append(Markup('<text x="{}" y="{}" text-anchor="end">{:g}</text>').format(left - 6, y + 4, value))
    for power in range(x_low, x_high + 1):
        x = at(power, y_low)[0]
        parts.append(Markup('<text x="{}" y="{}" text-anchor="middle">{:g}</text>').format(x, _HEIGHT - 6, 10**power))
    places = [at(cost, dot.y["value"]) for cost, dot in zip(costs, dots, strict=True)]
    for dot, (x, y), height in zip(dots, places, _apart([y for _, y in places]), strict=True):
        style = "after" if dot.chosen else "train"
        ends = at(x_low, dot.y["low"])[1], at(x_low, dot.y["high"])[1]
        parts.append(Markup('<line class="spread {}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(style, x, x, *ends))
        parts.append(Markup('<circle class="{}" cx="{}" cy="{}" r="4"/>').format(style, x, y))
        parts.append(Markup('<text class="end {}" x="{}" y="{}">{}</text>').format(style, x + 8, height + 4, dot.name))
    parts.append(Markup("</svg>"))
    text = Markup('<figcaption><strong>{}</strong> <span class="soft">{}</span></figcaption>').format(title, caption)
    return Markup("<figure>{}{}</figure>").format(text, Markup().join(parts))


def _width(text: str) -> int:
    """Room that a text takes at most; kana and kanji are wider than letters."""
    return sum(13 if east_asian_width(letter) in "WF" else _LETTER for letter in text)


def _apart(heights: Sequence[float], gap: float = 15) -> list[float]:
    """The heights, pushed down where two labels would overlap; in their order."""
    found, last = list(heights), -math.inf
    for i in sorted(range(len(heights)), key=lambda i: heights[i]):
        last = found[i] = max(heights[i], last + gap)
    overhang = max(0.0, last - (_HEIGHT - _BOTTOM))
    return [height - overhang for height in found]
