"""Which trials go on: worked out by hand."""

from __future__ import annotations

import pytest

from migaki.search.pruning import Halving, Keep, Median, Standing, evaluations_of, pruner_of


def trial(number: int, *values: float, n: int = 4, state: str = "running") -> Standing:
    """With this figure after each evaluation; losses are the same everywhere."""
    return Standing(number, n, {i: (v, 0.0) for i, v in enumerate(values, 1)}, state)  # type: ignore[arg-type]


def test_of_three_trials_at_a_rung_the_best_goes_on():
    trials = [trial(0, 0.5, state="waiting"), trial(1, 0.7, state="waiting"), trial(2, 0.6)]
    halving = Halving()
    assert not halving.goes_on(trials[2], trials, all_started=False)
    assert halving.promoted(trials, all_started=False) == 1


def test_the_best_of_two_waits_for_a_third_unless_none_is_to_come():
    trials = [trial(0, 0.5), trial(1, 0.7)]
    assert not Halving().goes_on(trials[1], trials, all_started=False)
    assert Halving().goes_on(trials[1], trials, all_started=True)
    assert not Halving().goes_on(trials[0], trials, all_started=True)


def test_an_equal_metric_is_decided_by_the_loss():
    trials = [Standing(i, 4, {1: (0.9, -loss)}) for i, loss in enumerate((0.5, 0.2, 0.4))]
    assert [Halving().goes_on(t, trials, all_started=False) for t in trials] == [False, True, False]


def test_a_halted_trial_is_taken_up_when_it_is_among_the_best_third_of_more():
    # 0.7 went on; with six figures two go on, and 0.65 is the second.
    trials = [trial(0, 0.7, 0.8), *(trial(i, 0.7 - 0.05 * i, state="waiting") for i in range(1, 6))]
    assert Halving().promoted(trials, all_started=False) == 1
    assert Halving().promoted(trials[:5], all_started=False) is None


def test_where_two_rungs_fall_on_one_who_goes_on_is_among_the_best_of_both():
    # Three evaluations: a ninth and a third of them are the first one. Of nine trials three are the best of the lower rung,
    # and of these one is the best of the upper one, as of nine evaluations each.
    few = [trial(i, 0.9 - 0.1 * i, n=3, state="waiting") for i in range(9)]
    assert [t.number for t in few if Halving().goes_on(t, few, all_started=True)] == [0]
    # Eight of the nine stood on the upper rung without having passed the lower one: they take no place there.
    many = [*few[:8], trial(8, 0.95, 0.85, n=6, state="waiting")]
    assert [t.number for t in many if Halving().goes_on(t, many, all_started=True)] == [0]


def test_the_third_of_the_upper_rung_is_of_those_that_passed_the_lower_one():
    # Six evaluations: rungs at 1 and 2. Of nine trials 0, 1 and 2 passed the first; of these three one passes the second.
    passed = [trial(i, 0.9 - 0.1 * i, 0.9 - 0.1 * i, n=6) for i in range(3)]
    trials = [*passed, *(trial(i, 0.5 - 0.05 * (i - 2), n=6, state="waiting") for i in range(3, 9))]
    assert [t.number for t in passed if Halving().goes_on(t, trials, all_started=False)] == [0]


def test_between_rungs_nobody_is_asked():
    nine = trial(0, 0.1, 0.1, n=9)
    others = [trial(i, 0.9, 0.9, 0.9, n=9) for i in range(1, 6)]
    assert Halving().goes_on(nine, [nine, *others], all_started=True)


def test_a_trial_that_can_never_be_among_the_best_third_is_given_up():
    # Of six trials two go on. Three are better than 0.4 already, whatever comes.
    trials = [trial(i, v, state="waiting") for i, v in enumerate((0.9, 0.8, 0.7, 0.4))]
    assert Halving().hopeless(trials, n_trials=6) == [2, 3]
    assert Halving().hopeless(trials, n_trials=12) == []


def test_where_trials_are_counted_nobody_goes_on_who_could_still_be_beaten():
    """Six trials of six evaluations, rungs at 1 and 2: two of six pass the first, and of these one the second."""
    halving = Halving(waits=True)
    early = [trial(i, 0.9 - 0.1 * i, n=6, state="waiting") for i in range(3)]
    # The best of three would go on by a clock; here three more are to come.
    assert Halving().promoted(early, all_started=False) == 0
    assert halving.promoted(early, all_started=False) is None
    # All have begun and one of them is not there yet: it takes one of the two places, the best of the others has the other.
    begun = [*early, trial(3, 0.2, n=6, state="waiting"), trial(4, 0.1, n=6, state="waiting"), trial(5, n=6)]
    assert [t.number for t in begun[:5] if halving.goes_on(t, begun, all_started=True)] == [0]
    # It comes with 0.85: 0 and 5 pass, and 0.8 does not.
    there = [*begun[:5], trial(5, 0.85, n=6)]
    assert [t.number for t in there if halving.goes_on(t, there, all_started=True)] == [0, 5]
    # On the upper rung 0 waits for 5, unless 5 has failed.
    upper = [trial(0, 0.9, 0.9, n=6), *there[1:]]
    assert not halving.goes_on(upper[0], upper, all_started=True)
    late = [*upper[:5], trial(5, n=6)]  # nor while nobody knows whether 5 passes the lower one
    assert not halving.goes_on(late[0], late, all_started=True)
    failed = [*upper[:5], trial(5, 0.85, n=6, state="failed")]
    assert halving.goes_on(failed[0], failed, all_started=True)


def test_the_first_rung_is_at_the_evaluation_nearest_to_a_ninth():
    """Of 13 evaluations 1.44, of 14 1.56; a third is rounded up: 4.33 and 4.67."""
    assert [Halving().rungs(Standing(0, n)) for n in (4, 13, 14)] == [
        [(0, 1), (1, 2)],
        [(0, 1), (1, 5)],
        [(0, 2), (1, 5)],
    ]


def test_brackets_begin_at_later_rungs_and_are_judged_apart():
    hyperband = Halving(brackets=3)
    assert [hyperband.rungs(Standing(i, 9)) for i in range(3)] == [[(0, 1), (1, 3)], [(1, 3)], []]
    # Of the bracket of trial 3 only trials 0 and 3 are there.
    trials = [trial(0, 0.5, n=9), trial(1, 0.9, n=9), trial(2, 0.9, n=9), trial(3, 0.6, n=9)]
    assert hyperband.goes_on(trials[3], trials, all_started=True)


def test_the_median_gives_up_what_is_worse_than_half_of_the_others_at_the_same_share():
    others = [trial(i, v, v + 0.1, n=2) for i, v in enumerate((0.2, 0.4, 0.6, 0.8))]
    median = Median()
    # After one of two evaluations the others stand at 0.2, 0.4, 0.6 and 0.8: the upper median is 0.6.
    assert median.goes_on(trial(9, 0.6, n=2), others, all_started=False)
    assert not median.goes_on(trial(9, 0.59, n=2), others, all_started=False)
    assert median.goes_on(trial(9, 0.0, n=2), others[:3], all_started=False)  # too few to judge by
    # Two of four evaluations are the same share as one of two.
    assert not median.goes_on(trial(9, 0.1, 0.59, n=4), others, all_started=False)


def test_every_pruner_that_is_offered_is_there():
    assert isinstance(pruner_of("none"), Keep)
    assert isinstance(pruner_of("patience"), Keep)
    assert isinstance(pruner_of("median"), Median)
    assert pruner_of("halving") == Halving(1)
    assert pruner_of("hyperband") == Halving(3)
    assert pruner_of("halving", counted=True) == Halving(1, waits=True)


@pytest.mark.parametrize(
    ("arguments", "n"),
    [
        ((160, 16, 3, None, 1), 3),  # 10 steps an epoch, judged at 10, 20 and 30
        ((160, 16, 3, 25, 1), 3),  # at 10, 20, and at the end
        ((160, 16, 3, None, 2), 6),
        ((10, 16, 2, None, 4), 2),  # one step an epoch cannot be judged four times
    ],
)
def test_evaluations_are_counted_as_the_loop_makes_them(arguments, n):
    assert evaluations_of(*arguments) == n
