"""A contract for every sampler: within the ranges, from (seed, number, history) alone, and better than chance where it
claims to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from migaki.search import Space, read_space
from migaki.search.samplers import Known, drawn, parameters_of

SAMPLERS = ("tpe", "gp", "random")
every = pytest.mark.parametrize("sampler", SAMPLERS)


@pytest.fixture
def space(tmp_path: Path) -> Space:
    path = tmp_path / "r.yaml"
    path.write_text(
        "task: classify_text\ndata: {train: rows.csv}\nmodel: some/folder\n"
        "method: {kind: lora, rank: [4, 8, 16], targets: {choice: [all-linear, [query], [value]]}}\n"
        "training: {learning_rate: {log: [1e-5, 1e-2]}, epochs: {int: [2, 8], step: 3}, dropout: {uniform: [0, 0.5]}}\n"
    )
    return read_space(path)


def known(space: Space, n: int) -> list[Known]:
    """Random settings; the figure is the better the nearer the rate is to 1e-3."""
    found = []
    for number in range(n):
        settings = drawn(space, [], number, 7, "random", ["maximize"])
        figure = -abs(np.log10(settings["training.learning_rate"]) + 3)
        found.append(Known(number, settings, [float(figure)]))
    return found


@every
def test_what_is_drawn_lies_within_the_ranges(space, sampler):
    history: list[Known] = []
    for number in range(9):
        settings = drawn(space, history, number, 0, sampler, ["maximize"])
        assert list(settings) == list(space.ranges)
        assert space.inside(settings)
        space.recipe(settings)
        history.append(Known(number, settings, [0.1 * number]))


@every
def test_the_same_number_seed_and_history_give_the_same_settings(space, sampler):
    history = known(space, 8)
    first = drawn(space, history, 8, 3, sampler, ["maximize"])
    assert drawn(space, history, 8, 3, sampler, ["maximize"]) == first
    if sampler == "gp":
        return  # it looks for the one best place, wherever it begins to look
    assert drawn(space, history, 9, 3, sampler, ["maximize"]) != first
    assert drawn(space, history, 8, 4, sampler, ["maximize"]) != first
    assert drawn(space, history, 8, 3, sampler, ["maximize"], again=1) != first


@every
def test_a_default_outside_of_its_range_and_trials_without_figure_do_no_harm(space, sampler):
    history = known(space, 6)
    odd = [
        Known(6, {**history[0].settings, "training.learning_rate": 1.0}, [9.0]),
        Known(7, history[1].settings, None),
        Known(8, history[2].settings, None, running=True),
        Known(9, history[3].settings, [0.2], share=1 / 3),
    ]
    assert space.inside(drawn(space, [*history, *odd], 10, 0, sampler, ["maximize"]))


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_sampler_that_learns_draws_nearer_to_the_best_than_chance(space, sampler, direction):
    sign = 1 if direction == "maximize" else -1
    history = [Known(k.number, k.settings, [sign * k.values[0]]) for k in known(space, 16) if k.values]

    def distance(sampler: str) -> float:
        rates = [
            drawn(space, history, 16, seed, sampler, [direction])["training.learning_rate"]  # type: ignore[list-item]
            for seed in range(8)
        ]
        return float(np.mean([abs(np.log10(rate) + 3) for rate in rates]))

    assert distance(sampler) < 0.7 * distance("random")


@every
def test_two_objectives_can_be_searched(space, sampler):
    history = [Known(k.number, k.settings, [k.values[0], float(k.number)]) for k in known(space, 7) if k.values]
    assert space.inside(drawn(space, history, 7, 0, sampler, ["maximize", "minimize"]))


def test_rising_numbers_of_a_list_are_neighbours_and_other_values_are_not(space):
    settings = {
        "method.rank": 16,
        "method.targets": ["value"],
        "training.learning_rate": 1e-3,
        "training.epochs": 5,
        "training.dropout": 0.5,
    }
    found = parameters_of(space, settings)
    assert found["method.rank"] == 2
    assert found["method.targets"] == '["value"]'
