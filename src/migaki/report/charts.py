"""Curves and matrices as inline SVG and HTML tables, drawn without a library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Curve", "line_chart"]

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 220, 56, 28, 10


@dataclass(frozen=True)
class Curve:
    """One line of a chart: a name, a style class, and its points."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]


def line_chart(curves: Sequence[Curve], label: str, x_label: str, dots: bool = False) -> str:
    """An SVG with axes, a few round ticks, and a legend; empty where no curve has a point."""
    points = [point for curve in curves for point in curve.points]
    if not points:
        return ""
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_low, y_high = min(y for _, y in points), max(y for _, y in points)
    x_span, y_span = (x_high - x_low) or 1.0, (y_high - y_low) or max(abs(y_high), 1e-12)

    def at(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - x_low) / x_span * (_WIDTH - _LEFT - 12)
        down = _TOP + (y_high - y) / y_span * (_HEIGHT - _TOP - _BOTTOM)
        return round(across, 1), round(down, 1)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{_escape(label)}">']
    for k in range(4):
        value = y_low + y_span * k / 3 if y_high > y_low else y_high
        _, y = at(x_low, value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - 12}" y1="{y}" y2="{y}"/><text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{value:.3g}</text>'
        )
        if y_high == y_low:
            break
    for k in range(5):
        value = x_low + x_span * k / 4
        x, _ = at(value, y_low)
        parts.append(f'<text x="{x}" y="{_HEIGHT - 8}" text-anchor="middle">{value:.4g}</text>')
    for curve in curves:
        path = " ".join(f"{x},{y}" for x, y in (at(*point) for point in curve.points))
        parts.append(f'<polyline class="{curve.style}" points="{path}"/>')
        if dots:
            parts += [
                f'<circle class="{curve.style}" cx="{x}" cy="{y}" r="3"/>'
                for x, y in (at(*point) for point in curve.points)
            ]
    parts.append("</svg>")
    legend = "".join(f'<span class="key {curve.style}">{_escape(curve.name)}</span>' for curve in curves)
    return f"<figure>{''.join(parts)}<figcaption>{_escape(label)} ({_escape(x_label)}) {legend}</figcaption></figure>"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
