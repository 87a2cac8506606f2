"""Which trials are worth going on with: decided on the validation rows, at evaluations that come before the end.

A figure is a pair (better is larger, minus the loss): where the metric is equal, the smaller loss decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

__all__ = [
    "PRUNERS",
    "SHARES",
    "Figure",
    "Halving",
    "Keep",
    "Median",
    "Pruner",
    "Standing",
    "evaluations_of",
    "pruner_of",
]

Figure = tuple[float, float]
State = Literal["running", "waiting", "finished", "stopped", "failed"]

_STEEPNESS = 3
"""Of so many trials one goes on (eta)."""
SHARES = (1 / 9, 1 / 3)
"""Of a whole training, where the rungs are."""
_FEWEST = 4


@dataclass(frozen=True)
class Standing:
    """How far a trial has come."""

    number: int
    evaluations: int
    """How many a whole training has."""
    figures: Mapping[int, Figure] = field(default_factory=dict)
    """The best so far, by the number of evaluations it has seen."""
    state: State = "running"

    def at(self, share: float) -> Figure | None:
        """The figure at this share of the training, if it has come so far."""
        return self.figures.get(max(1, math.ceil(share * self.evaluations - 1e-9)))


class Pruner(Protocol):
    """Asked after an evaluation whether a trial goes on, and for what was halted whether it may go on after all."""

    halts: bool
    """Whether a trial that does not go on may be taken up again; else it is given up."""

    def goes_on(self, trial: Standing, all_trials: Sequence[Standing], all_started: bool) -> bool:
        """Whether to train further now."""
        ...

    def promoted(self, all_trials: Sequence[Standing], all_started: bool) -> int | None:
        """The number of a halted trial that is to be taken up again."""
        ...

    def hopeless(self, all_trials: Sequence[Standing], n_trials: int) -> list[int]:
        """Numbers of halted trials that can never be taken up again, however the others do."""
        ...


class Keep:
    """Every trial is trained to its end."""

    halts = False

    def goes_on(self, trial: Standing, all_trials: Sequence[Standing], all_started: bool) -> bool:
        return True

    def promoted(self, all_trials: Sequence[Standing], all_started: bool) -> int | None:
        return None

    def hopeless(self, all_trials: Sequence[Standing], n_trials: int) -> list[int]:
        return []


@dataclass(frozen=True)
class Halving:
    """Successive halving: at each rung the best third goes on, the others are halted with their checkpoint.

    Where the number of trials is known, nobody goes on who could still be beaten by one that has not come so far, so only
    a third of a third is trained to the end. Where a clock ends the search, nobody waits: the best third of those that
    are there goes on, and who was halted is taken up again once it is among the best third of more.

    With several brackets the trials take turns in beginning at a later rung, in case that early figures mislead.
    Source: Jamieson and Talwalkar 2015, arXiv:1502.07943 (waiting); Li et al. 2018, arXiv:1810.05934 (not waiting); Li et
    al. 2016, arXiv:1603.06560 (Hyperband).
    """

    brackets: int = 1
    waits: bool = False
    halts = True

    def rungs(self, trial: Standing) -> list[tuple[int, int]]:
        """(rung, evaluation at which the trial stands on it), those before the end. Where evaluations are few, two rungs fall
        on one, and who goes on is among the best of both.

        >>> Halving().rungs(Standing(0, evaluations=9)), Halving().rungs(Standing(0, evaluations=3))
        ([(0, 1), (1, 3)], [(0, 1), (1, 1)])
        """
        places = [(rung, self._place(rung, trial)) for rung in range(self._bracket(trial.number), len(SHARES))]
        return [(rung, at) for rung, at in places if at < trial.evaluations]

    def _bracket(self, number: int) -> int:
        return number % self.brackets

    def goes_on(self, trial: Standing, all_trials: Sequence[Standing], all_started: bool) -> bool:
        rung = self._rung(trial)
        return rung is None or trial.number in self._best(rung, trial.number, all_trials, all_started)

    def promoted(self, all_trials: Sequence[Standing], all_started: bool) -> int | None:
        waiting = [t for t in all_trials if t.state == "waiting"]
        for rung in reversed(range(len(SHARES))):
            for trial in (t for t in waiting if self._rung(t) == rung):
                if trial.number in self._best(rung, trial.number, all_trials, all_started):
                    return trial.number
        return None

    def hopeless(self, all_trials: Sequence[Standing], n_trials: int) -> list[int]:
        found = []
        for trial in (t for t in all_trials if t.state == "waiting"):
            rung = self._rung(trial)
            assert rung is not None
            # More trials can only push it down.
            better = [self._ranked(r, trial.number, all_trials).index(trial.number) for r in self._rungs_here(trial)]
            if any(n >= max(1, math.ceil(n_trials / _STEEPNESS)) for n in better):
                found.append(trial.number)
        return found

    def _rung(self, trial: Standing) -> int | None:
        """The highest rung on which the trial stands now."""
        return max(self._rungs_here(trial), default=None)

    def _rungs_here(self, trial: Standing) -> list[int]:
        here = max(trial.figures, default=0)
        return [rung for rung, at in self.rungs(trial) if at == here]

    def _best(self, rung: int, number: int, all_trials: Sequence[Standing], all_started: bool) -> list[int]:
        """Who goes on from the rung, of the bracket of trial `number`."""
        if self.waits and not all_started:
            return []
        ranked = self._ranked(rung, number, all_trials)
        coming = self._coming(rung, number, all_trials)
        if rung > self._bracket(number):
            # Who was halted below has no place here, though it may stand on both rungs at once.
            below = self._best(rung - 1, number, all_trials, all_started)
            beyond = {t.number for t in all_trials if max(t.figures, default=0) > self._place(rung - 1, t)}
            ranked = [n for n in ranked if n in below or n in beyond]
            undecided = self._coming(rung - 1, number, all_trials)
            coming = [n for n in coming if n in below or n in beyond or n in undecided]
        if self.waits:
            # As if all that are still to come were better.
            return ranked[: max(0, math.ceil((len(ranked) + len(coming)) / _STEEPNESS) - len(coming))]
        share = len(ranked) / _STEEPNESS
        # While more are to come a third is rounded down; in the end somebody has to go on.
        return ranked[: max(1, math.ceil(share)) if all_started else math.floor(share)]

    def _coming(self, rung: int, number: int, all_trials: Sequence[Standing]) -> list[int]:
        """Numbers of the trials of this bracket that have not reached the rung and may."""
        return [
            t.number
            for t in all_trials
            if self._bracket(t.number) == self._bracket(number)
            and t.state in ("running", "waiting")
            and any(r == rung and at > max(t.figures, default=0) for r, at in self.rungs(t))
        ]

    def _ranked(self, rung: int, number: int, all_trials: Sequence[Standing]) -> list[int]:
        """Numbers of the trials of this bracket that have reached the rung, the best first; of equal ones the earlier."""
        bracket = [t for t in all_trials if self._bracket(t.number) == self._bracket(number)]
        reached = [
            (figure, -t.number)
            for t in bracket
            if any(r == rung for r, _ in self.rungs(t)) and (figure := t.figures.get(self._place(rung, t))) is not None
        ]
        return [-minus for _, minus in sorted(reached, reverse=True)]

    @staticmethod
    def _place(rung: int, trial: Standing) -> int:
        """The evaluation at which a trial stands on the rung: the nearest one to the first, and none too early for a later
        one, where fewer are left to be beaten."""
        exact = SHARES[rung] * trial.evaluations
        return max(1, math.floor(exact + 0.5) if rung == 0 else math.ceil(exact - 1e-9))


class Median:
    """A trial is given up whose best figure so far is worse than the median of the others at the same share of their
    training; the first ones are never.

    Source: Golovin et al. 2017, Google Vizier, doi:10.1145/3097983.3098043, section 3.2.2.
    """

    halts = False

    def goes_on(self, trial: Standing, all_trials: Sequence[Standing], all_started: bool) -> bool:
        at = max(trial.figures, default=0)
        others = [t.at(at / trial.evaluations) for t in all_trials if t.number != trial.number]
        there = sorted(figure for figure in others if figure is not None)
        return len(there) < _FEWEST or trial.figures[at] >= there[len(there) // 2]

    def promoted(self, all_trials: Sequence[Standing], all_started: bool) -> int | None:
        return None

    def hopeless(self, all_trials: Sequence[Standing], n_trials: int) -> list[int]:
        return []


PRUNERS = ("none", "halving", "hyperband", "median", "patience")


def pruner_of(name: str, counted: bool = False) -> Pruner:
    """The pruner of this name, for a search whose number of trials is known or not. `patience` is a setting of every
    training (`training.early_stopping`), so that here nothing is left to decide."""
    if name == "median":
        return Median()
    if name in ("halving", "hyperband"):
        return Halving(brackets=3 if name == "hyperband" else 1, waits=counted)
    assert name in PRUNERS, name
    return Keep()


def evaluations_of(n_rows: int, batch_size: int, epochs: int, max_steps: int | None, per_epoch: int) -> int:
    """How many evaluations a training has after its first step: `per_epoch` of them in each epoch, and one at the end.

    >>> evaluations_of(100, 16, epochs=3, max_steps=None, per_epoch=1), evaluations_of(100, 16, 3, 8, 1)
    (3, 2)
    """
    steps = -(-n_rows // batch_size)
    total = min(steps * epochs, max_steps or steps * epochs)
    due = [step for step in range(1, total + 1) if step * per_epoch // steps > (step - 1) * per_epoch // steps]
    return len(due) + (total not in due)
