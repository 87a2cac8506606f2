"""Ranges in a recipe: how they are read, what they become, and what is refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from migaki.core.codec import takes_list
from migaki.core.errors import RecipeError
from migaki.core.parts import Shape
from migaki.methods import all_methods
from migaki.recipe import Recipe
from migaki.search import Space, read_space
from migaki.search.first import first_trials
from migaki.search.ranges import Choice, Real, Whole, range_of
from migaki.tasks import ClassifyText, Generate

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "search").glob("*.yaml"))
HEAD = "task: classify_text\ndata: {train: rows.csv}\nmodel: some/folder\n"
SHAPE = Shape(6, ("encoder.layer.0.attention.self.query", "encoder.layer.0.attention.self.value", "pooler.dense"))


def space_of(tmp_path: Path, text: str, *settings: str) -> Space:
    path = tmp_path / "r.yaml"
    path.write_text(HEAD + text, encoding="utf-8")
    return read_space(path, settings)


def test_every_form_of_a_range_is_found_where_its_value_would_stand(tmp_path):
    space = space_of(
        tmp_path,
        "method: {kind: lora, rank: [4, 8], dropout: {uniform: [0, 0.5]}}\n"
        "training: {learning_rate: {log: [1e-5, 1e-3]}, epochs: {int: [2, 6], step: 2}, schedule: {choice: [cosine, linear]}}\n",
    )
    assert dict(space.ranges) == {
        "method.rank": Choice((4, 8)),
        "method.dropout": Real(0.0, 0.5),
        "training.learning_rate": Real(1e-5, 1e-3, log=True),
        "training.epochs": Whole(2, 6, 2),
        "training.schedule": Choice(("cosine", "linear")),
    }


def test_a_setting_that_is_a_list_itself_is_searched_by_choice_alone(tmp_path):
    assert space_of(tmp_path, "method: {kind: lora, targets: [query, value]}\n").ranges == {}
    space = space_of(tmp_path, "method: {kind: lora, targets: {choice: [[query, value], all-linear]}}\n")
    assert space.ranges == {"method.targets": Choice((["query", "value"], "all-linear"))}
    assert space.recipe({"method.targets": ["query"]}).method.targets == ["query"]


def test_whether_a_setting_takes_a_list_is_asked_of_the_kind_that_the_recipe_names():
    reft, lora = {"method": {"kind": "reft"}}, {"method": {"kind": "lora"}}
    assert takes_list(Recipe, reft, ("method", "layers"))
    assert not takes_list(Recipe, lora, ("method", "layers"))  # has no such setting
    assert not takes_list(Recipe, lora, ("method", "rank"))
    assert takes_list(Recipe, {}, ("data", "train"))
    assert not takes_list(Recipe, {}, ("training", "learning_rate"))


def test_the_default_is_what_the_recipe_would_be_without_the_search(tmp_path):
    space = space_of(tmp_path, "method: {kind: lora, rank: [4, 16]}\ntraining: {learning_rate: {log: [1e-5, 1e-3]}}\n")
    assert dict(space.defaults) == {"method.rank": 8, "training.learning_rate": 2e-4}
    assert space.default.method.rank == 8


def test_a_stated_default_counts_and_of_whole_parts_the_first(tmp_path):
    space = space_of(
        tmp_path, "method: [{kind: frozen, blocks: 2}, full]\ntraining: {epochs: {int: [1, 4], default: 2}}\n"
    )
    assert dict(space.defaults) == {"method": {"kind": "frozen", "blocks": 2}, "training.epochs": 2}
    assert (space.default.method.kind, space.default.method.blocks, space.default.training.epochs) == ("frozen", 2, 2)
    assert space.recipe({"method": "full", "training.epochs": 4}).method.kind == "full"


def test_ranges_may_come_from_the_command_line(tmp_path):
    space = space_of(tmp_path, "method: lora\n", "training.learning_rate={log: [1e-5, 1e-3]}", "method.rank=[2, 4]")
    assert set(space.ranges) == {"training.learning_rate", "method.rank"}


def test_the_first_setting_of_a_grid_changes_slowest(tmp_path):
    space = space_of(tmp_path, "method: {kind: lora, rank: [4, 8]}\ntraining: {epochs: {int: [1, 3]}}\n")
    assert space.size() == 6
    assert [tuple(s.values()) for s in space.grid()] == [(4, 1), (4, 2), (4, 3), (8, 1), (8, 2), (8, 3)]


def test_a_grid_over_a_range_without_end_says_which_and_where(tmp_path):
    space = space_of(tmp_path, "method: full\ntraining:\n  learning_rate: {log: [1e-5, 1e-3]}\n")
    assert space.size() is None
    with pytest.raises(RecipeError, match=r"r\.yaml:6: training\.learning_rate: .*has no end of values"):
        list(space.grid())


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("method:\n  kind: lora\n  rank: [4, 0, -1]\n", 6, ["0 cannot be tried", "-1 cannot be tried"]),
        ("method:\n  kind: lora\n  dropout: {uniform: [0, 1.5]}\n", 6, ["1.5 cannot be tried"]),
        ("method:\n  kind: lora\n  rank: {log: [4, 64]}\n", 6, ["4.0 cannot be tried", "64.0 cannot be tried"]),
        ("method: lora\ntraining:\n  schedule: [cosine, slope]\n", 6, ["'slope' cannot be tried"]),
        ("method: lora\ntraining:\n  leraning_rate: [1, 2]\n", 6, ["did you mean 'learning_rate'?"]),
    ],
)
def test_every_impossible_value_is_told_with_its_line(tmp_path, text, line, said):
    with pytest.raises(RecipeError) as caught:
        space_of(tmp_path, text).check()
    told = str(caught.value)
    assert f"r.yaml:{line}: " in told
    assert all(words in told for words in said)
    assert "nothing was started" in told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: [1, 2]\nmethod: lora\n", "another seed is another draw"),
        ("method: lora\ntraining: {epochs: []}\n", "is empty"),
        ("method: lora\ntraining: {epochs: [2, 3, 2]}\n", "2 stands twice"),
        ("method: lora\ntraining: {epochs: {int: [4, 2]}}\n", "the first number is the lowest"),
        ("method: lora\ntraining: {epochs: {int: [1.5, 2]}}\n", "whole numbers"),
        ("method: lora\ntraining: {learning_rate: {log: [0, 1e-3]}}\n", "has no logarithm"),
        ("method: lora\ntraining: {learning_rate: {log: [1e-5]}}\n", "takes two numbers"),
        ("method: lora\ntraining: {learning_rate: {log: [1e-5, 1e-3], step: 2}}\n", "step goes with int"),
        ("method: [{kind: lora, rank: {int: [2, 4]}}, full]\n", "a range within a range"),
    ],
)
def test_a_range_that_is_none_is_refused_in_words(tmp_path, text, said):
    with pytest.raises(RecipeError, match=said):
        space_of(tmp_path, text)


def test_lists_that_do_not_go_together_are_refused_before_the_start(tmp_path):
    space = space_of(tmp_path, "method:\n  kind: frozen\n  blocks: [1, 2]\n  train: {choice: [null, [layer.1]]}\n")
    with pytest.raises(RecipeError, match="blocks and train both say what is trained"):
        space.check()


def test_what_is_written_out_is_the_same_search_again(tmp_path):
    space = space_of(
        tmp_path,
        "method: {kind: lora, rank: [4, 8], targets: {choice: [all-linear, [query]]}}\n"
        "training: {learning_rate: {log: [1e-5, 1e-3], default: 5e-7}, dropout: {uniform: [0, 0.1]}}\n",
    )
    (tmp_path / "space.yaml").write_text(space.written(), encoding="utf-8")
    again = read_space(tmp_path / "space.yaml")
    assert dict(again.ranges) == dict(space.ranges)
    assert dict(again.defaults) == dict(space.defaults)
    assert again.default.resolved() == space.default.resolved()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_that_come_with_migaki_can_be_searched(path):
    space = read_space(path)
    space.check()
    assert space.ranges
    assert path.name in (path.parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("task", [ClassifyText(), Generate()], ids=lambda task: task.kind)
@pytest.mark.parametrize("method", [kind.model_fields["kind"].default for kind in all_methods()])
def test_the_space_of_a_method_holds_only_what_its_recipe_takes(tmp_path, method, task):
    path = tmp_path / "r.yaml"
    path.write_text(f"task: {task.kind}\ndata: {{train: rows.csv}}\nmodel: some/folder\nmethod: {method}\n")
    plain = read_space(path)
    ranges: dict[str, Any] = plain.default.method.space(task, SHAPE)
    plain.with_ranges(ranges).check()
    if plain.default.method.takes_steps:
        rate = plain.default.method.default_learning_rate
        assert range_of(ranges["training.learning_rate"]) == Real(rate / 10, rate * 10, log=True)
        assert "training.batch_size" not in ranges


@pytest.mark.parametrize("method", ["lora", "frozen", "full", "reft"])
def test_the_first_trials_are_the_default_published_advice_and_a_ladder_each_once(tmp_path, method):
    space = space_of(tmp_path, f"method: {method}\ntraining: {{learning_rate: 1e-7}}\n")
    space = space.with_ranges(space.default.method.space(space.default.task, SHAPE))
    found = first_trials(space, SHAPE)
    rate = space.default.method.default_learning_rate
    assert found[0].origin == "default"
    assert found[0].settings["training.learning_rate"] == 1e-7
    assert any("arXiv" in one.origin for one in found)
    ladder = [one.settings["training.learning_rate"] for one in found if one.origin == "ladder of rates"]
    assert ladder == pytest.approx([rate, rate / 3, rate * 3], rel=0.01)
    assert all(space.inside(one.settings) for one in found[1:])
    settings = [one.settings for one in found]
    assert all(settings.count(one) == 1 for one in settings)
