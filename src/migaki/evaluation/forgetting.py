"""Forgetting: what a model lost of its general ability, measured on the same general rows before and after."""

# Shapes: N rows, K figures at once (1, or the resamples)

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from migaki.core.parts import Learner, Task
from migaki.core.types import Ability, Dataset, Measure
from migaki.evaluation.intervals import bootstrap, paired_difference, proportion

__all__ = ["MARGINS", "ability_change", "ability_figure", "forgetting", "measure_generality"]

MARGINS = {"accuracy": 0.02, "loss": 0.1}
"""A change for the worse that nobody has to act on: two points of accuracy, or a tenth of a nat for each token (a perplexity
one tenth higher).

Forgotten is what lost more than this beyond doubt, so how little is noticed depends on the rows. Where nothing is gained, of
the 140 English sentences 9 have to be lost (6.4 points), of the 80 Japanese ones 7, of the 40 English questions 6; where 3 are
gained, 14, 13 and 12. A smaller loss is shown, but not called one. The loss of answers is measured much more finely, since
every token says something."""

_SEED = 0


def measure_generality(
    learner: Learner, task: Task, probe: Sequence[Dataset], watch: Callable[[int], None] = lambda _: None
) -> list[Ability]:
    """What the learner can do beside its task, with the weights that it holds now.

    Args:
        probe: the sets of `data.generality.general_probe`.
        watch: called every few rows; may raise to end the work.
    """
    return task.generality(learner, probe, watch)


def ability_figure(ability: Ability) -> Measure:
    """Accuracy with Wilson's interval, or loss per target token (nats) with the bootstrap over rows."""
    if ability.metric == "accuracy":
        return proportion(round(sum(ability.scores)), len(ability.scores))
    return _per_token(ability.scores, ability.weights)


def ability_change(before: Ability, after: Ability) -> Measure:
    """After minus before, with an interval that uses that both were measured on the same rows.

    >>> before, after = (Ability("a", "loss", losses, (2, 3)) for losses in ((1.0, 2.0), (2.0, 3.0)))
    >>> ability_change(before, after).value  # 2 nats more over 5 tokens
    0.4
    """
    assert (before.name, before.weights) == (after.name, after.weights)
    old_N, new_N = np.array(before.scores), np.array(after.scores)
    if before.metric == "accuracy":
        return paired_difference(old_N == 1, new_N == 1)
    return _per_token(new_N - old_N, before.weights)


def _per_token(loss: Any, tokens: Any) -> Measure:
    loss_N, tokens_N = np.asarray(loss, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    return bootstrap(loss_N, _SEED, lambda weights_KN: (weights_KN @ loss_N) / (weights_KN @ tokens_N))


def forgetting(before: Sequence[Ability], after: Sequence[Ability]) -> dict[str, Any]:
    """What changed, JSON-able.

    `parts` has an entry for each set, with its figure before and after, the change, and whether the whole 95 % interval of the
    change is worse than the margin of its metric. The same figures of one of them stand on top, to compare runs by: of the
    sets with the first one's metric the one that the base does best at, so that a model is judged in the language it knows.

    Args:
        before: abilities of the base, at least one.
        after: abilities of the tuned model, on the same sets.
    """
    parts = [_part(old, new) for old, new in zip(before, after, strict=True)]
    sign = 1 if parts[0]["metric"] == "accuracy" else -1
    alike = [part for part in parts if part["metric"] == parts[0]["metric"]]
    headline = max(alike, key=lambda part: sign * part["before"]["value"])
    return {
        **{name: value for name, value in headline.items() if name not in ("name", "forgotten")},
        "part": headline["name"],
        "forgotten": any(part["forgotten"] for part in parts),
        "parts": parts,
    }


def _part(before: Ability, after: Ability) -> dict[str, Any]:
    change, margin = ability_change(before, after), MARGINS[before.metric]
    worse = change.high < -margin if before.metric == "accuracy" else change.low > margin
    return {
        "name": before.name,
        "metric": before.metric,
        "before": ability_figure(before).as_json(),
        "after": ability_figure(after).as_json(),
        "change": change.as_json(),
        "n": change.n,
        "margin": margin,
        "forgotten": worse,
    }
