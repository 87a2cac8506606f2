"""Figures as text and as parts of a common axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from migaki.core.units import percent_text

__all__ = ["SHARES", "cell", "number", "shares", "signed"]

Json = Mapping[str, Any]

SHARES = (
    *("accuracy", "f1", "precision", "recall", "exact_match", "chrf", "character_f1", "stopped"),
    *("wer", "cer", "looped"),
)
"""Metrics whose names start so lie in 0..1 and are shown as percent; errors per word may be more than 100 %."""


def number(metric: str, value: float) -> str:
    """A figure as it is read: shares in percent, the others with four digits."""
    if metric.startswith(SHARES):
        return percent_text(value)
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:#.4g}"


def signed(metric: str, value: float, words: Mapping[str, str], unit: bool = True) -> str:
    """A difference with its sign; shares differ by percentage points."""
    share = metric.startswith(SHARES)
    size = f"{100 * abs(value):.1f}" if share else number(metric, abs(value))
    sign = "±" if float(size.replace(",", "")) == 0 else "+" if value > 0 else "−"
    return f"{sign}{size}" + (f" {words['points']}" if share and unit else "")


def cell(metric: str, measure: Json | None) -> dict[str, str] | None:
    """A figure and its interval as text."""
    if measure is None:
        return None
    low, high = number(metric, measure["low"]), number(metric, measure["high"])
    return {"value": number(metric, measure["value"]), "interval": f"{low.removesuffix(' %')} – {high}"}


def shares(metric: str, measures: Sequence[Json | None]) -> list[dict[str, float] | None]:
    """Each figure and its interval as percent of their common axis, for drawing; None where it cannot be drawn."""
    highest = 1.0 if metric.startswith(SHARES) else max((m["high"] for m in measures if m), default=0.0)
    if not math.isfinite(highest) or highest <= 0:
        return [None for _ in measures]

    def percent(value: float) -> float:
        return round(100 * min(max(value / highest, 0.0), 1.0), 2)

    return [
        {"low": percent(m["low"]), "wide": percent(m["high"] - m["low"]), "at": percent(m["value"])} if m else None
        for m in measures
    ]
