"""The learning rate as a function of the step."""

from __future__ import annotations

import math

__all__ = ["rate_at", "warmup_steps"]


def warmup_steps(total: int, share: float) -> int:
    """Steps of warm-up: the share of all steps, rounded up, so that a short run still has some."""
    return math.ceil(total * share)


def rate_at(step: int, total: int, peak: float, schedule: str, warmup: float) -> float:
    """Learning rate of optimiser step `step` (from 0) of `total`.

    Warm-up rises in equal steps to `peak`, its first step above zero: a step at rate 0 would be wasted. The cosine and
    the line would reach zero one step after the last. Source: Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5.

    >>> [round(rate_at(s, 6, 1.0, "linear", 0.33), 2) for s in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    n_warm = warmup_steps(total, warmup)
    if step < n_warm:
        return peak * (step + 1) / n_warm
    if schedule == "constant":
        return peak
    progress = (step - n_warm) / max(total - n_warm, 1)
    return peak * (1 - progress) if schedule == "linear" else peak * 0.5 * (1 + math.cos(math.pi * progress))
