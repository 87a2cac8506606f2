"""What was forgotten: figures worked out by hand, and how much has to be lost before it is called so."""

from __future__ import annotations

import pytest

from migaki.core.types import Ability
from migaki.evaluation.forgetting import MARGINS, ability_change, ability_figure, forgetting
from migaki.evaluation.intervals import wilson


def told(right: int, n: int, name: str = "topics-en") -> Ability:
    """The first `right` of n rows are right."""
    return Ability(name, "accuracy", (1.0,) * right + (0.0,) * (n - right), (1,) * n)


def said(losses: tuple[float, ...], tokens: tuple[int, ...], name: str = "passages-en") -> Ability:
    return Ability(name, "loss", losses, tokens)


def lost_and_gained(n: int, right: int, lost: int, gained: int) -> dict:
    after = (0.0,) * lost + (1.0,) * (right - lost + gained) + (0.0,) * (n - right - gained)
    return forgetting([told(right, n)], [Ability("topics-en", "accuracy", after, (1,) * n)])


def test_a_share_of_rows_has_wilsons_interval_and_a_loss_is_per_token():
    figure = ability_figure(told(8, 10))
    assert (figure.value, figure.low, figure.high, figure.n) == (0.8, *wilson(8, 10), 10)
    # 3 + 9 nats over 2 + 4 tokens; a mean of the rows' means would be 1.875.
    loss = ability_figure(said((3.0, 9.0), (2, 4)))
    assert loss.value == 2.0
    assert (loss.low, loss.high) == (1.5, 2.25)  # only one row or the other is drawn in the far resamples


def test_the_change_is_after_minus_before_row_by_row():
    assert ability_change(told(9, 10), told(6, 10)).value == pytest.approx(-0.3)
    change = ability_change(said((3.0, 9.0), (2, 4)), said((4.0, 11.0), (2, 4)))
    assert change.value == pytest.approx(0.5)  # (1 + 2) / 6
    assert (change.low, change.high) == (0.5, 0.5)  # each row lost half a nat per token, whichever is drawn


def test_the_same_model_has_lost_nothing():
    found = forgetting([told(120, 140), said((3.0, 9.0), (2, 4))], [told(120, 140), said((3.0, 9.0), (2, 4))])
    assert not found["forgotten"]
    assert [part["change"]["value"] for part in found["parts"]] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("n", "right", "gained", "lost"),
    [(140, 125, 0, 9), (140, 125, 3, 14), (80, 60, 0, 7), (80, 60, 3, 13), (40, 29, 3, 12)],
)
def test_so_many_rows_have_to_be_lost_before_it_is_called_forgetting(n, right, gained, lost):
    assert lost_and_gained(n, right, lost, gained)["forgotten"]
    assert not lost_and_gained(n, right, lost - 1, gained)["forgotten"]


def test_a_gain_is_no_forgetting_whatever_its_size():
    assert not forgetting([told(20, 140)], [told(139, 140)])["forgotten"]
    assert not forgetting([said((9.0, 9.0), (2, 2))], [said((1.0, 1.0), (2, 2))])["forgotten"]


@pytest.mark.parametrize(("more", "forgotten"), [(0.9, False), (1.1, True)])
def test_a_loss_counts_where_the_whole_interval_is_above_the_margin(more, forgotten):
    """Every row loses the same for each token, so the interval is that one number."""
    tokens = (4, 7, 9)
    before = said(tuple(2.0 * n for n in tokens), tokens)
    after = said(tuple((2.0 + more * MARGINS["loss"]) * n for n in tokens), tokens)
    assert forgetting([before], [after])["forgotten"] is forgotten


def test_one_row_that_lost_much_is_not_enough():
    """The mean change is 0.5 nats a token, but only because of one row of ten: draws without it show none."""
    before, after = said((2.0,) * 10, (1,) * 10), said((7.0, *(2.0,) * 9), (1,) * 10)
    found = forgetting([before], [after])
    assert found["change"]["value"] == pytest.approx(0.5)
    assert not found["forgotten"]


def test_any_part_counts_and_the_one_that_the_base_does_best_at_stands_on_top():
    english, japanese = told(30, 80, "topics-en"), told(70, 80, "topics-ja")
    found = forgetting([english, japanese], [told(5, 80, "topics-en"), japanese])
    assert (found["part"], found["before"]["value"], found["change"]["value"], found["n"]) == (
        "topics-ja",
        0.875,
        0.0,
        80,
    )
    assert found["forgotten"]
    assert [part["forgotten"] for part in found["parts"]] == [True, False]
    # Of losses the smaller one is the better; an accuracy beside it is no rival.
    parts = [said((9.0,), (3,), "passages-en"), said((6.0,), (3,), "passages-ja"), told(1, 1, "choices-en")]
    assert forgetting(parts, parts)["part"] == "passages-ja"
    assert forgetting(parts, parts)["metric"] == "loss"


def test_figures_of_other_rows_are_never_compared():
    with pytest.raises(AssertionError):
        ability_change(said((1.0,), (3,)), said((1.0,), (4,)))
