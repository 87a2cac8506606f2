"""Learning rates worked out by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from migaki.training.schedules import rate_at, warmup_steps


def rates(total: int, schedule: str, warmup: float, peak: float = 8.0) -> list[float]:
    return [rate_at(step, total, peak, schedule, warmup) for step in range(total)]


def test_the_line_falls_in_equal_steps_and_would_be_zero_one_step_after_the_last() -> None:
    assert rates(4, "linear", 0.0) == pytest.approx([8, 6, 4, 2])
    assert rate_at(4, 4, 8.0, "linear", 0.0) == 0.0


def test_the_cosine_is_half_way_down_in_the_middle() -> None:
    # 8 * (1 + cos(k pi / 4)) / 2 for k = 0 .. 3
    assert rates(4, "cosine", 0.0) == pytest.approx([8, 4 + 2 * math.sqrt(2), 4, 4 - 2 * math.sqrt(2)])
    assert rate_at(4, 4, 8.0, "cosine", 0.0) == pytest.approx(0.0, abs=1e-12)


def test_warm_up_rises_in_equal_steps_from_above_zero_to_the_peak() -> None:
    assert rates(8, "constant", 0.5) == pytest.approx([2, 4, 6, 8, 8, 8, 8, 8])


def test_the_fall_begins_behind_the_warm_up() -> None:
    assert rates(6, "linear", 1 / 3) == pytest.approx([4, 8, 8, 6, 4, 2])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_one_step_is_done_at_the_peak(schedule: str) -> None:
    """Warm-up is rounded up: the only step is its last one."""
    assert rates(1, schedule, 0.1) == [8.0]
    assert rates(1, schedule, 0.0) == [8.0]


@pytest.mark.parametrize("share", ["0", "0.03", "0.05", "0.1", "0.2", "0.25", "0.3", "0.5", "0.99"])
def test_warm_up_is_the_share_of_the_steps_rounded_up_exactly(share: str) -> None:
    """A product such as 0.07 * 100 = 7.000000000000001 must not cost a step more."""
    for total in range(1, 600):
        assert warmup_steps(total, float(share)) == math.ceil(total * Fraction(share)), total


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.9])
def test_no_step_is_wasted_and_none_is_above_the_peak(schedule: str, warmup: float) -> None:
    for total in (1, 2, 3, 10, 101):
        assert all(0 < rate <= 8.0 for rate in rates(total, schedule, warmup))


def test_the_schedules_agree_with_those_of_transformers_where_they_overlap() -> None:
    """transformers starts at rate 0 and so is one step behind; without warm-up both say the same."""
    import torch
    from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

    for name, make in (("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=8.0)
        schedule = make(optimizer, 0, 7)
        for step in range(7):
            assert rate_at(step, 7, 8.0, name, 0.0) == pytest.approx(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
