"""Which settings are tried next: a function of the space, the seed, the trial's number and what was found before it.

Optuna draws (ask and tell); a sampler is made anew for every trial from (seed, number), so that nothing depends on what a
process has drawn before it was killed.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from migaki.core.seeds import derive
from migaki.search.ranges import Choice, Range, Real
from migaki.search.space import Settings, Space

if TYPE_CHECKING:
    import optuna

__all__ = ["SAMPLERS", "Known", "distribution_of", "drawn", "parameters_of"]

SAMPLERS = ("tpe", "gp", "random", "grid")
_FIRST_AT_RANDOM = 5
"""Before a model of so few figures says more than chance; the rules of thumb are among them."""


@dataclass(frozen=True)
class Known:
    """What is known of an earlier trial."""

    number: int
    settings: Settings
    values: Sequence[float] | None
    """Of each objective; None where the trial failed or is still running."""
    share: float = 1.0
    """Of its training that the values are of."""
    running: bool = False


def distribution_of(r: Range) -> Any:
    """Optuna's form of a range: rising numbers of a list by their place in it, so that neighbours count as alike."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(r, Real):
        return FloatDistribution(r.low, r.high, log=r.log)
    if isinstance(r, Choice):
        if r.ordered:
            return IntDistribution(0, len(r.values) - 1)
        return CategoricalDistribution([_text(value) for value in r.values])
    return IntDistribution(r.low, r.ends()[-1], step=r.step)


def parameters_of(space: Space, settings: Settings) -> dict[str, Any]:
    """The settings as values of `distribution_of`; they have to lie within their ranges."""
    return {path: _parameter(r, settings[path]) for path, r in space.ranges.items()}


def _parameter(r: Range, value: Any) -> Any:
    if isinstance(r, Choice):
        return r.values.index(value) if r.ordered else _text(value)
    return float(value) if isinstance(r, Real) else value


def _value(r: Range, parameter: Any) -> Any:
    if isinstance(r, Choice):
        if r.ordered:
            return r.values[parameter]
        return next(value for value in r.values if _text(value) == parameter)
    return r.rounded(parameter) if isinstance(r, Real) else parameter


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def drawn(
    space: Space,
    known: Sequence[Known],
    number: int,
    seed: int,
    sampler: str,
    directions: Sequence[Literal["maximize", "minimize"]],
    again: int = 0,
) -> dict[str, Any]:
    """Settings for trial `number`.

    Args:
        known: earlier trials in their order; those outside of the ranges say nothing to the sampler.
        sampler: tpe, gp or random.
        directions: of each objective.
        again: how often something was drawn that is known already.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        made = _sampler(sampler, derive(seed, "sampler", number, again) % 2**32)
        study = optuna.create_study(directions=list(directions), sampler=made)
    distributions = {path: distribution_of(r) for path, r in space.ranges.items()}
    study.add_trials(_history(space, known, distributions, directions, sampler))
    asked = study.ask(distributions)
    return {path: _value(r, asked.params[path]) for path, r in space.ranges.items()}


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=_FIRST_AT_RANDOM)
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=_FIRST_AT_RANDOM)


def _history(
    space: Space, known: Sequence[Known], distributions: Any, directions: Sequence[str], sampler: str
) -> list[optuna.trial.FrozenTrial]:
    from optuna.trial import TrialState, create_trial

    found = []
    there = [k.values for k in known if k.values is not None]
    # A rate at which training diverges has no figure, but has to be known as bad: it gets the worst one.
    worst = [
        (min if direction == "maximize" else max)((values[i] for values in there), default=0.0)
        for i, direction in enumerate(directions)
    ]
    for k in (k for k in known if space.inside(k.settings)):
        parameters = parameters_of(space, k.settings)
        # A Gaussian process knows finished trials alone, and with several objectives nothing is half done.
        finished = k.share >= 1 or sampler == "gp" or len(directions) > 1
        state = TrialState.RUNNING if k.running else TrialState.COMPLETE if finished else TrialState.PRUNED
        values = list(k.values or worst)
        found.append(
            create_trial(
                state=state,
                params=parameters,
                distributions=distributions,
                values=values if state == TrialState.COMPLETE else None,
                intermediate_values={round(1000 * k.share): values[0]} if state == TrialState.PRUNED else {},
            )
        )
    return found
