"""Which methods cannot be told apart: exact values, and how often a difference is found where there is none."""

import math

import numpy as np
import pytest

from migaki.evaluation.comparison import Outcomes, difference, groups, holm, mcnemar, measure


def hits(*shares: float, n: int = 200, seed: int = 0) -> Outcomes:
    randomness = np.random.default_rng(seed)
    return Outcomes((randomness.random((len(shares), n)) < np.array(shares)[:, None]).astype(float), np.ones(n))


def test_the_figure_is_the_mean_over_seeds_of_gained_by_weight():
    outcomes = Outcomes.of([[2.0, 1.0], [4.0, 3.0]], [1.0, 3.0])
    assert outcomes.seeds == [0.75, 1.75]
    assert outcomes.value == 1.25


def test_mcnemar_agrees_with_scipys_binomial_test():
    from scipy.stats import binomtest

    randomness = np.random.default_rng(3)
    for _ in range(20):
        a, b = randomness.random((2, 60)) < 0.7
        only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
        assert mcnemar(a, b) == pytest.approx(binomtest(only_a, only_a + only_b, 0.5).pvalue)
    assert mcnemar(np.ones(5), np.ones(5)) == 1


def test_holm_multiplies_the_smallest_by_all_and_never_falls():
    assert holm([0.2, 0.001, 0.02, 0.5]) == pytest.approx([0.4, 0.004, 0.06, 0.5])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_interval_of_one_seed_is_as_wide_as_the_binomials():
    """95 % of a share of 0.8 over 400 rows: 1.96 x sqrt(0.8 x 0.2 / 400) each way."""
    gained = np.zeros((1, 400))
    gained[0, :320] = 1
    found = measure(Outcomes(gained, np.ones(400)), 0)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 400)
    assert (found.low, found.high) == (pytest.approx(0.8 - half, abs=0.006), pytest.approx(0.8 + half, abs=0.006))


def test_seeds_that_differ_widen_the_interval():
    alike = measure(Outcomes(np.tile(hits(0.8).gained_SN, (3, 1)), np.ones(200)), 0)
    apart = measure(hits(0.95, 0.8, 0.65), 0)
    assert apart.high - apart.low > 1.5 * (alike.high - alike.low)


def test_a_paired_difference_is_surer_than_two_intervals():
    """Both models miss the same hard rows; one of them also misses 12 more, always the same way."""
    a = np.ones((1, 300))
    a[0, :120] = 0
    b = a.copy()
    b[0, 120:132] = 0
    gap, p = difference(Outcomes(a, np.ones(300)), Outcomes(b, np.ones(300)), 0)
    assert gap.value == pytest.approx(0.04)
    assert gap.low > 0
    assert p == pytest.approx(2 / 2**12)
    assert measure(Outcomes(a, np.ones(300)), 0).low < measure(Outcomes(b, np.ones(300)), 0).high


def test_a_method_does_not_differ_from_itself():
    one = hits(0.7, 0.8)
    gap, p = difference(one, one, 0)
    assert (gap.value, p) == (0, 1.0)


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_equal_methods_are_told_apart_no_more_often_than_stated(n_seeds):
    """120 pairs of equally good methods: 5 % of the tests may find a difference, 12 of 120 would be far too many."""
    found = 0
    for trial in range(120):
        a, b = (hits(*[0.8] * n_seeds, n=150, seed=2 * trial + k) for k in (0, 1))
        found += difference(a, b, trial)[1] < 0.05
    assert found <= 11


def test_groups_are_what_the_test_against_the_best_leaves_together():
    methods = {
        "full": hits(0.95, seed=1),
        "lora": hits(0.94, seed=2),
        "probe": hits(0.7, seed=3),
        "floor": hits(0.69, seed=4),
    }
    assert groups(methods, "max", 0) == [["full", "lora"], ["probe", "floor"]] or groups(methods, "max", 0) == [
        ["lora", "full"],
        ["probe", "floor"],
    ]
    assert groups(methods, "min", 0)[0][0] in ("probe", "floor")


def test_losses_are_weighed_by_their_tokens():
    """Row 2 has 90 of 100 tokens, so it decides: a is better by (0.5 x 90 - 1 x 10) / 100 nats a token."""
    a, b = Outcomes.of([[30.0, 45.0]], [10, 90]), Outcomes.of([[20.0, 90.0]], [10, 90])
    assert difference(b, a, 0)[0].value == pytest.approx(0.35)


def test_a_ratio_of_sums_is_drawn_again_with_what_stands_below_it():
    """F1 of two seeds: 2 x hits over wanted and found, (4 + 2) / (6 + 4) and 6 / (6 + 6); the mean of 0.6 and 0.5."""
    outcomes = Outcomes.of([[4.0, 2.0], [2.0, 4.0]], [[6.0, 4.0], [6.0, 6.0]])
    assert outcomes.seeds == pytest.approx([0.6, 0.5])
    assert outcomes.value == pytest.approx(0.55)
    assert not outcomes.is_share()
    found = measure(Outcomes.of([[2.0] * 50], [[4.0] * 50]), 0)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_two_methods_of_equal_hits_differ_by_what_one_invents():
    """Both find every part, one also finds as many that are not there: F1 1 against 2/3 in every resample."""
    right, inventive = Outcomes.of([[2.0] * 40], [[2.0] * 40]), Outcomes.of([[2.0] * 40], [[3.0] * 40])
    gap, p = difference(right, inventive, 0)
    assert (gap.value, gap.low, gap.high) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert p < 0.01
    assert difference(right, right, 0)[1] == 1.0


def test_rows_with_nothing_to_find_make_no_figure_infinite():
    nothing = Outcomes.of([[0.0, 0.0]], [[0.0, 0.0]])
    assert (nothing.value, measure(nothing, 0).value) == (0.0, 0.0)
