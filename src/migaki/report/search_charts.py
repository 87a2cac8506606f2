"""Pictures of a search as inline SVG: dots with a line, lines across axes, bars."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from migaki.report.charts import ticks

__all__ = ["Axis", "Point", "bar_chart", "dot_chart", "parallel_chart"]

# Units of the drawing, as in `charts`.
_WIDTH, _HEIGHT, _TOP, _BOTTOM, _LETTER = 440, 230, 14, 26, 8


@dataclass(frozen=True)
class Point:
    """One trial in a picture: its place, and how strongly it is drawn."""

    x: float
    y: float
    style: str = "train"
    faint: bool = False


@dataclass(frozen=True)
class Axis:
    """One setting of many: where each of its values stands, 0 at the foot and 1 at the head, and what is written there."""

    name: str
    places: Sequence[float]
    """One for each line."""
    marks: Sequence[tuple[float, str]]


def dot_chart(
    title: str, caption: str, points: Sequence[Point], line: Sequence[tuple[float, float]] = (), log: bool = False
) -> Markup:
    """A dot for each trial and a line in steps through the best of them; empty where nothing can be drawn.

    Args:
        line: its corners from left to right; it keeps its height up to the next one.
        log: whether x is drawn by its power of ten.
    """
    scale = math.log10 if log else float
    points = [p for p in points if math.isfinite(p.y) and math.isfinite(p.x) and (not log or p.x > 0)]
    if not points:
        return Markup()
    corners = [(scale(x), y) for x, y in line]
    xs = [*(scale(p.x) for p in points), *(x for x, _ in corners)]
    ys = [*(p.y for p in points), *(y for _, y in corners)]
    frame = _Frame(min(xs), max(xs), min(ys), max(ys), log)
    parts = [_opened(title), *frame.grid()]
    if corners:
        steps = [corners[0]]
        for (_, before), (x, y) in itertools.pairwise(corners):
            steps += [(x, before), (x, y)]
        text = " ".join("{},{}".format(*frame.at(x, y)) for x, y in steps)
        parts.append(Markup('<polyline class="after" points="{}"/>').format(text))
    for p in points:
        x, y = frame.at(scale(p.x), p.y)
        opacity = 0.35 if p.faint else 1
        parts.append(Markup('<circle class="{}" cx="{}" cy="{}" r="3.2" opacity="{}"/>').format(p.style, x, y, opacity))
    return _closed(title, caption, parts)


@dataclass(frozen=True)
class _Frame:
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    log: bool

    def _left(self) -> int:
        return 10 + max(_LETTER * len(f"{y:g}") for y in ticks(self.y_low, self.y_high, 4))

    def at(self, x: float, y: float) -> tuple[float, float]:
        left, right, floor = self._left(), _WIDTH - 12, _HEIGHT - _BOTTOM
        across = (x - self.x_low) / (self.x_high - self.x_low) if self.x_high > self.x_low else 0.5
        up = (y - self.y_low) / (self.y_high - self.y_low) if self.y_high > self.y_low else 0.5
        return round(left + across * (right - left), 1), round(floor - up * (floor - _TOP), 1)

    def grid(self) -> list[Markup]:
        parts = []
        for value in ticks(self.y_low, self.y_high, 4):
            y = self.at(self.x_low, value)[1]
            parts.append(
                Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(self._left(), _WIDTH - 12, y, y)
            )
            parts.append(
                Markup('<text x="{}" y="{}" text-anchor="end">{:g}</text>').format(self._left() - 6, y + 4, value)
            )
        for value in ticks(self.x_low, self.x_high, 4):
            shown = f"{10**value:.2g}" if self.log else f"{value:g}"
            x = self.at(value, self.y_low)[0]
            parts.append(Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(x, _HEIGHT - 6, shown))
        return parts


def parallel_chart(title: str, caption: str, axes: Sequence[Axis], strong: Sequence[bool]) -> Markup:
    """A line for each trial across upright axes, one a setting and the last one the figure; the strong ones on top."""
    if len(axes) < 2 or not strong:
        return Markup()
    step, floor = 92, 250
    width = step * len(axes)

    def at(axis: int, place: float) -> tuple[float, float]:
        return round(step * (axis + 0.5), 1), round(floor - 26 - place * (floor - 66), 1)

    parts = [
        Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}" style="min-width:{}px">').format(
            width, floor, title, width
        )
    ]
    for line in sorted(range(len(strong)), key=lambda i: strong[i]):
        text = " ".join("{},{}".format(*at(i, axis.places[line])) for i, axis in enumerate(axes))
        style = "after" if strong[line] else "train faint"
        parts.append(Markup('<polyline class="{}" points="{}"/>').format(style, text))
    for i, axis in enumerate(axes):
        x, foot = at(i, 0)
        head = at(i, 1)[1]
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x, x, head, foot))
        name_y = 14 if i % 2 == 0 else 28  # neighbours stand at two heights, so that long names have room
        parts.append(Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(x, name_y, axis.name))
        for place, text in axis.marks:
            parts.append(Markup('<text x="{}" y="{}">{}</text>').format(x + 4, at(i, place)[1] + 4, text))
    return _closed(title, caption, parts)


def bar_chart(title: str, caption: str, bars: Mapping[str, float]) -> Markup:
    """A level bar for each name, 0..1, the longest first."""
    if not bars:
        return Markup()
    row, left = 24, 12 + max(_LETTER * len(name) for name in bars)
    height = row * len(bars) + 6
    parts = [Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, height, title)]
    room = _WIDTH - left - 60
    for number, (name, share) in enumerate(sorted(bars.items(), key=lambda bar: -bar[1])):
        y = row * number
        parts.append(Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(left - 8, y + 16, name))
        parts.append(
            Markup('<rect class="after" x="{}" y="{}" width="{}" height="12" fill="currentColor"/>').format(
                left, y + 6, round(room * share, 1)
            )
        )
        text = f"{100 * share:.0f} %"
        parts.append(Markup('<text x="{}" y="{}">{}</text>').format(round(left + room * share + 6, 1), y + 16, text))
    return _closed(title, caption, parts)


def _opened(title: str) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, _HEIGHT, title)


def _closed(title: str, caption: str, parts: Sequence[Markup]) -> Markup:
    text = Markup('<figcaption><strong>{}</strong> <span class="soft">{}</span></figcaption>').format(title, caption)
    return Markup("<figure>{}{}</figure>").format(text, Markup().join([*parts, Markup("</svg>")]))
