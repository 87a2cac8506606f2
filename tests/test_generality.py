"""Forgetting from the recipe to the report: what is measured, when, on which weights, and what is said about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import migaki
from learners import base_from
from migaki.cli import _forgetting_text, main
from migaki.core.errors import DataError, RecipeError
from migaki.core.parts import Task
from migaki.evaluation import ability_figure, forgetting, measure_generality
from migaki.generality import probe_of, remedies
from migaki.pipeline import train
from migaki.recipe import Recipe
from migaki.report import write_report
from migaki.report.words import said
from migaki.tasks import ClassifyText
from tiny import labelled_rows, write_rows

MINIMAL = {"task": "classify_text", "data": {"train": "train.csv"}}
SETS = {
    "classify_text": [("topics-en", 140), ("topics-ja", 80)],
    "generate": [("passages-en", 24), ("passages-ja", 12), ("choices-en", 40), ("choices-ja", 20)],
}


def run_of(folder: Path, number: int) -> migaki.Run:
    return migaki.load(number, folder / "runs")


def figures(abilities: Any) -> list[tuple[str, float, int]]:
    return [(a.name, ability_figure(a).value, len(a.scores)) for a in abilities]


# the setting


def test_a_file_is_relative_to_the_recipe_and_the_two_words_are_words(tmp_path):
    path = tmp_path / "r.yaml"
    for written, wanted in (("bundled", "bundled"), ("off", "off"), ("mine.csv", str(tmp_path / "mine.csv"))):
        path.write_text(f"task: classify_text\ndata: {{train: a.csv}}\ngenerality: {written}\n", encoding="utf-8")
        assert Recipe.from_file(path).generality == wanted
    assert Recipe(**MINIMAL).generality == "bundled"


@pytest.mark.parametrize("value", ["", " ", "a\x00b", True, 0, None, ["a.csv"]])
def test_what_is_no_file_is_refused(value):
    with pytest.raises(RecipeError, match="generality"):
        Recipe(**MINIMAL, generality=value)


@pytest.mark.parametrize("kind", SETS)
def test_each_task_has_its_sets(kind):
    recipe = Recipe(**{**MINIMAL, "task": kind})
    assert [(s.name, len(s)) for s in probe_of(recipe)] == SETS[kind]
    assert probe_of(Recipe(**{**MINIMAL, "task": kind}, generality="off")) == ()


def test_a_task_without_the_measure_is_passed_over_unless_rows_are_named():
    class Mine(ClassifyText):
        generality = Task.generality

    def recipe(value: str) -> Recipe:
        return Recipe(**MINIMAL, generality=value).model_copy(update={"task": Mine()})

    assert probe_of(recipe("bundled")) == probe_of(recipe("off")) == ()
    with pytest.raises(RecipeError, match="classify_text has no measure of general ability; leave this out"):
        probe_of(recipe("mine.csv"))


def test_a_file_that_cannot_be_used_is_told_before_anything_is_made(tiny_encoder, tmp_path):
    mine = tmp_path / "mine.csv"
    mine.write_text("text,label\na,x\nb,\n", encoding="utf-8")
    recipe = {"task": "classify_text", "data": {"train": labelled_rows()}, "model": str(tiny_encoder)}
    with pytest.raises(DataError, match=r"generality: .*mine\.csv:3"):
        train({**recipe, "generality": str(mine)}, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


# what is measured


@pytest.mark.parametrize(("number", "kind"), [(1, "classify_text"), (2, "generate"), (3, "generate")])
def test_what_a_run_says_is_what_its_saved_model_and_its_base_reach(finished_runs, number, kind):
    """After is the model as it is loaded from its folder; before a learner that was made anew and never trained."""
    run = run_of(finished_runs, number)
    found = run.results["generality"]
    assert [part["name"] for part in found["parts"]] == [name for name, _ in SETS[kind]]
    recipe, probe = run.recipe, probe_of(run.recipe)
    after = figures(measure_generality(run.learner, recipe.task, probe))
    assert after == [(p["name"], pytest.approx(p["after"]["value"], abs=1e-4), p["n"]) for p in found["parts"]]
    splits = recipe.data.load(recipe.task.content_kind, recipe.seed)
    if recipe.model.reference.startswith("run:"):
        base = run_of(finished_runs, 2).as_base("run:2")
    else:
        base = base_from(Path(recipe.model.reference), recipe.task.base_role)
    fresh = recipe.method.prepare(base, recipe.task, splits.train, recipe.seed)
    fresh.compute_in(getattr(torch, json.loads((run.path / "environment.json").read_text())["precision"]["dtype"]))
    before = figures(measure_generality(fresh, recipe.task, probe))
    assert before == [(p["name"], pytest.approx(p["before"]["value"], abs=1e-4), p["n"]) for p in found["parts"]]
    for part in found["parts"]:
        difference = part["after"]["value"] - part["before"]["value"]
        assert part["change"]["value"] == pytest.approx(difference, abs=1e-9)
        assert part["change"]["low"] <= part["change"]["value"] <= part["change"]["high"]


def test_a_chat_that_was_trained_hard_forgets_and_says_so(finished_runs):
    """Run 2: a random model, 25 epochs at a high rate. Its answers to anything else become less likely."""
    run = run_of(finished_runs, 2)
    found = run.results["generality"]
    assert found["forgotten"]
    assert found["remedy"] == remedies(run.recipe)
    assert run.summary()["forgetting"] == found
    out = (finished_runs / "2.out").read_text(encoding="utf-8")
    (line,) = [line for line in out.splitlines() if line.startswith("general ability")]
    assert line == _forgetting_text(found)
    assert line.startswith("general ability was forgotten: passages-")
    assert "training.learning_rate" in line


def test_what_takes_no_steps_has_nothing_to_forget_and_off_means_off(tiny_encoder, tmp_path, capsys):
    path = tmp_path / "r.yaml"
    rows = write_rows(tmp_path / "rows.jsonl", labelled_rows())
    for method, more in (("probe", ""), ("full", "generality: off\ntraining: {max_steps: 1}\n")):
        path.write_text(
            f"task: classify_text\ndata: {{train: {rows}}}\nmodel: {tiny_encoder}\nmethod: {method}\n{more}",
            encoding="utf-8",
        )
        assert main(["train", str(path), "--runs", str(tmp_path / "runs"), "--json"]) == 0
        out = capsys.readouterr().out
        assert "general ability" not in out
        said_json = json.loads(out.splitlines()[-1])
        assert said_json["forgetting"] is None
        assert "汎用能力" not in write_report(Path(said_json["folder"]), "ja")


def test_rows_of_ones_own_are_measured_under_the_name_of_their_file(tiny_encoder, tmp_path):
    mine = write_rows(tmp_path / "mine.jsonl", [{"text": f"{w} {i}", "label": w} for i in range(6) for w in "ab"])
    recipe = {
        "task": "classify_text",
        "data": {"train": labelled_rows()},
        "model": str(tiny_encoder),
        "method": "full",
        "training": {"max_steps": 1},
        "generality": str(mine),
    }
    run = train(recipe, tmp_path / "runs")
    found = run.results["generality"]
    assert (found["name"], found["part"], found["n"]) == (str(mine), "mine.jsonl", 12)
    assert "mine.jsonl · Accuracy" in write_report(run.path)


# what is said


def test_remedies_are_those_that_the_recipe_does_not_use_yet():
    full = Recipe(**MINIMAL, method="full")
    assert [text.split()[0] for text in remedies(full)] == ["Lower", "Train", "Keep", "Pull"]
    assert [text.split()[0] for text in remedies(Recipe(**MINIMAL))] == ["Lower", "Keep", "Pull"]
    careful = {"l2_sp": 10.0, "interpolate": 0.5}
    assert [text.split()[0] for text in remedies(Recipe(**MINIMAL, training=careful))] == ["Lower"]
    chat = Recipe(**{**MINIMAL, "task": "generate"}, training=careful)
    assert [text.split()[0] for text in remedies(chat)] == ["Lower", "Mix"]
    for text in [*remedies(full), *remedies(chat)]:
        assert said(text, "ja") != text


def test_the_report_shows_every_part_in_both_languages(finished_runs):
    for number, kind in ((1, "classify_text"), (2, "generate")):
        run = run_of(finished_runs, number)
        pages = {language: write_report(run.path, language) for language in ("en", "ja")}
        parts = run.results["generality"]["parts"]
        assert pages["en"].count("Topics of ") == (2 if kind == "classify_text" else 0)
        assert pages["ja"].count("の四択問題 · 正解率") == (0 if kind == "classify_text" else 2)
        assert pages["en"].count('<span class="flag">forgotten</span>') == sum(part["forgotten"] for part in parts)
        assert pages["ja"].count('<span class="flag">忘却</span>') == sum(part["forgotten"] for part in parts)
        lost = run.results["generality"]["forgotten"]
        assert ("training.learning_rate を下げる" in pages["ja"]) is lost
        assert ("General ability was lost in training" in pages["en"]) is lost


def test_a_run_from_before_it_was_measured_still_has_a_report(finished_runs, tmp_path):
    import shutil

    copy = Path(shutil.copytree(run_of(finished_runs, 1).path, tmp_path / "0001-old"))
    results = json.loads((copy / "evaluation.json").read_text(encoding="utf-8"))
    del results["generality"]
    (copy / "evaluation.json").write_text(json.dumps(results), encoding="utf-8")
    assert "General ability" not in write_report(copy)


# on a real model


@pytest.mark.slow
def test_a_rate_that_is_thirty_times_too_high_is_caught(tmp_path):
    """The quick start at 1.5e-3 instead of 5e-5: what the encoder knew about everyday topics is lost.

    With the head that starts at class means no step beats the start, which is then what stays; a random head is beaten.
    """
    quickstart = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
    high = ["training.learning_rate=1.5e-3", "training.epochs=2", "task.head=random"]
    found = {}
    for name, settings in (("usual", []), ("high", high)):
        found[name] = train(Recipe.from_file(quickstart, settings), tmp_path / name).results["generality"]
    assert found["usual"]["before"]["value"] == found["high"]["before"]["value"] > 0.85  # chance is 0.1
    assert not found["usual"]["forgotten"]
    assert found["high"]["forgotten"]
    assert found["high"]["change"]["high"] < -0.5
    assert found["high"]["remedy"]


def test_the_line_names_what_was_lost_or_else_the_main_part():
    from migaki.core.types import Ability

    def part(name: str, right: int) -> Ability:
        return Ability(name, "accuracy", (1.0,) * right + (0.0,) * (20 - right), (1,) * 20)

    kept = forgetting([part("a", 10), part("b", 12)], [part("a", 10), part("b", 11)])
    assert _forgetting_text({**kept, "remedy": []}).startswith(
        "general ability, which was not trained: b accuracy 0.600 -> 0.550, change -0.050 [-0."
    )
    lost = forgetting([part("a", 20), part("b", 12)], [part("a", 2), part("b", 11)])
    text = _forgetting_text({**lost, "remedy": ["Do less."]})
    assert text.startswith("general ability was forgotten: a accuracy 1.000 -> 0.100, change -0.900 [-0.9")
    assert text.endswith(", n 20. What helps: Do less.")
    assert " b accuracy" not in text
