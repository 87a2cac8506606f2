"""The comparison of methods: what it opens when, what it takes over, and whom it recommends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import migaki.comparison
from migaki.cli import main
from migaki.comparison import _flips, _recommend, compare
from migaki.core.errors import NonFiniteError, RecipeError
from migaki.core.store import list_runs
from migaki.evaluation.comparison import Outcomes, groups
from migaki.recipe import Recipe
from migaki.report import write_comparison
from tiny import chat_rows, labelled_rows, write_rows

METHODS = ["zero_shot", "probe", "lora"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compared")


def recipe(encoder: Path, **settings: Any) -> Recipe:
    return Recipe(
        **{
            "task": "classify_text",
            "model": str(encoder),
            "data": {"train": labelled_rows(150), "valid": 0.2, "test": 0.3},
            "method": {"kind": "lora", "rank": 2},
            "training": {"epochs": 2, "batch_size": 16},
        }
        | settings
    )


@pytest.fixture(scope="module")
def compared(tiny_encoder: Path, place: Path) -> Any:
    return compare(recipe(tiny_encoder), METHODS, place / "runs", seeds=2)


def test_every_method_has_its_figures_and_the_floors_are_among_them(compared, place):
    facts = compared.facts
    assert set(facts["methods"]) == {*METHODS, "tfidf", "majority"}
    lora = facts["methods"]["lora"]
    assert len(lora["seeds"]) == len(lora["runs"]) == 2
    assert len(facts["methods"]["probe"]["seeds"]) == 1
    assert lora["metrics"]["accuracy"]["value"] == pytest.approx(np.mean(lora["seeds"]))
    assert lora["trainable_parameters"] > 0
    for name in ("seconds", "peak_bytes", "disk_bytes", "latency_p50_s", "latency_p95_s"):
        assert lora[name] > 0
    assert sorted(name for members in facts["groups"] for name in members) == sorted([*METHODS, "tfidf"])
    assert facts["best_group"] == facts["groups"][0]
    assert facts["recommended"] in facts["best_group"]
    assert json.loads((compared.folder / "comparison.json").read_text(encoding="utf-8")) == facts


def test_the_recipes_own_method_keeps_its_settings_and_all_runs_have_one_split(compared, place):
    runs = {run.id: migaki.load(run.id, place / "runs") for run in list_runs(place / "runs")}
    lora = [runs[name] for name in compared.facts["methods"]["lora"]["runs"]]
    assert [run.recipe.method.rank for run in lora] == [2, 2]
    assert [run.recipe.seed for run in lora] == [0, 1]
    prints = {
        json.loads((run.path / "data.json").read_text(encoding="utf-8"))["splits"]["test"]["fingerprint"]
        for run in runs.values()
    }
    assert len(prints) == 1


def test_the_rate_is_the_best_of_the_ladder_and_the_runs_use_it(compared, place):
    lora = compared.facts["methods"]["lora"]
    assert [float(rate) for rate in lora["ladder"]] == pytest.approx([2e-4 / 3, 2e-4, 6e-4], rel=1e-2)
    assert max(lora["ladder"].values()) == lora["ladder"][f"{lora['learning_rate']:g}"]
    run = migaki.load(lora["runs"][1], place / "runs")
    assert run.recipe.learning_rate == lora["learning_rate"]


def test_attempts_never_see_the_test_rows(tiny_encoder, tmp_path, monkeypatch):
    seen = []
    attempt = migaki.comparison.attempt

    def watched(recipe: Recipe, train: Any, valid: Any, *rest: Any) -> Any:
        seen.append({row.place for row in (*train.rows, *valid.rows)})
        return attempt(recipe, train, valid, *rest)

    monkeypatch.setattr(migaki.comparison, "attempt", watched)
    made = recipe(tiny_encoder)
    compare(made, ["lora"], tmp_path / "runs", seeds=1)
    test = {row.place for row in made.data.load("labelled", 0).test.rows}
    assert len(seen) > 3
    assert not any(rows & test for rows in seen)


def test_the_same_comparison_again_takes_everything_over(compared, tiny_encoder, place, monkeypatch):
    before = [run.id for run in list_runs(place / "runs")]
    monkeypatch.setattr("migaki.training.loop._Loop.run_steps", None)
    again = compare(recipe(tiny_encoder), METHODS, place / "runs", seeds=2)
    assert [run.id for run in list_runs(place / "runs")] == before
    for facts in (again.facts, compared.facts):
        facts.pop("seconds")
    assert again.facts == compared.facts


def test_one_more_method_joins_what_is_there(compared, tiny_encoder, place):
    n_before = len(list_runs(place / "runs"))
    more = compare(recipe(tiny_encoder), [*METHODS, "few_shot"], place / "runs", seeds=1)
    assert more.folder == compared.folder
    assert len(list_runs(place / "runs")) == n_before + 1


def test_an_interrupted_attempt_is_gone_on_with(tiny_encoder, tmp_path, monkeypatch):
    from migaki.core.errors import StoppedError
    from migaki.training.interrupts import Interrupts

    asked = []

    def check(self: Any, *_: Any) -> None:
        asked.append(1)
        if len(asked) == 3:
            raise StoppedError(15)

    made = recipe(tiny_encoder)
    with monkeypatch.context() as patched:
        patched.setattr(Interrupts, "check", check)
        with pytest.raises(StoppedError):
            compare(made, ["lora"], tmp_path / "runs", seeds=1)
    (stopped,) = (tmp_path / "runs").glob("compare-*/attempts/*")
    assert list((stopped / "checkpoints").glob("step-*"))
    found = compare(made, ["lora"], tmp_path / "runs", seeds=1)
    lines = (stopped / "history.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [line["step"] for line in map(json.loads, lines) if line["event"] == "step"]
    assert steps == list(range(1, len(steps) + 1))
    assert not (stopped / "checkpoints").exists()
    assert found.facts["methods"]["lora"]["seeds"]


def test_a_rate_at_which_training_diverges_is_left_out_of_the_ladder(tiny_encoder, tmp_path, monkeypatch):
    attempt = migaki.comparison.attempt

    def diverging(recipe: Recipe, *rest: Any) -> Any:
        if recipe.learning_rate > 1e-4:
            raise NonFiniteError("the loss is nan")
        return attempt(recipe, *rest)

    monkeypatch.setattr(migaki.comparison, "attempt", diverging)
    found = compare(recipe(tiny_encoder), ["lora"], tmp_path / "runs", seeds=1, minutes=1e-6).facts
    assert list(found["methods"]["lora"]["ladder"]) == ["6.67e-05"]
    monkeypatch.setattr("migaki.comparison._LADDER", (1.0, 3.0))
    with pytest.raises(RecipeError, match="lora diverges at every rate"):
        compare(recipe(tiny_encoder, seed=1), ["lora"], tmp_path / "runs", seeds=1)


def test_what_there_is_no_time_for_is_named(tiny_encoder, tmp_path):
    found = compare(recipe(tiny_encoder), ["lora"], tmp_path / "runs", seeds=3, minutes=1e-6).facts
    assert len(found["methods"]["lora"]["seeds"]) == 1
    assert {"seed 1 of lora", "seed 2 of lora"} <= set(found["left_out"])


def test_an_unknown_method_is_named_with_what_there_is(tiny_encoder, tmp_path):
    with pytest.raises(RecipeError, match=r"no method 'lorra'; there are .*lora"):
        compare(recipe(tiny_encoder), ["lorra"], tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_generators_are_compared_by_their_token_loss(tiny_decoder, tmp_path):
    made = Recipe(
        task={"kind": "generate", "max_new_tokens": 4, "generated_rows": 2},
        model=str(tiny_decoder),
        data={"train": chat_rows(24)},
        training={"epochs": 1, "batch_size": 8},
    )
    found = compare(made, ["zero_shot", "few_shot", "lora"], tmp_path / "runs", seeds=1)
    facts = found.facts
    assert facts["metric"] == "loss"
    assert set(facts["methods"]) == {"zero_shot", "few_shot", "lora"}
    losses = {name: method["metrics"]["loss"]["value"] for name, method in facts["methods"].items()}
    assert losses[facts["groups"][0][0]] == min(losses.values())
    run = migaki.load(facts["methods"]["lora"]["runs"][0], tmp_path / "runs")
    assert losses["lora"] == pytest.approx(run.metrics["loss"].value, rel=1e-6)
    write_comparison(found.folder)


# the page and the command


@pytest.mark.parametrize(("language", "title"), [("en", "Use "), ("ja", "を推奨")])
def test_the_page_names_the_choice_every_method_and_fetches_nothing(compared, language, title):
    page = write_comparison(compared.folder, language)
    assert title in page
    assert compared.facts["recommended"] in page
    for name in compared.facts["methods"]:
        assert name in page
    assert "<svg" in page
    assert "http://" not in page
    assert "https://" not in page


def test_the_command_prints_table_recommendation_and_json(tiny_encoder, tmp_path, capsys):
    path = write_rows(tmp_path / "rows.jsonl", labelled_rows(60))
    text = f"task: classify_text\nmodel: {tiny_encoder}\ndata: {{train: {path.name}}}\ntraining: {{epochs: 1}}\n"
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    command = ["compare", str(tmp_path / "recipe.yaml"), "--methods", "zero_shot,probe", "--runs", str(tmp_path / "r")]
    assert main([*command, "--json"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    said = json.loads(last)
    assert {"methods", "best_group", "recommended", "reason", "flips_when"} <= said.keys()
    assert (Path(said["folder"]) / "comparison.html").is_file()


# whom it recommends, by figures made up


def hits(share: float, n: int = 400) -> Outcomes:
    """Right on the first rows: nested, so that every difference is sure."""
    gained = np.zeros((1, n))
    gained[0, : round(share * n)] = 1
    return Outcomes(gained, np.ones(n))


def advice(
    figures: dict[str, float], seconds: dict[str, float], floors: tuple[str, ...] = ("tfidf",)
) -> dict[str, Any]:
    outcomes = {name: hits(share) for name, share in figures.items()}
    methods = {name: {"seconds": seconds.get(name, 1.0), "latency_p50_s": 0.1} for name in figures}
    return _recommend(outcomes, {f: outcomes[f] for f in floors}, groups(outcomes, "max", 0), methods, "max", 0)


def test_the_cheapest_of_the_best_group_is_recommended():
    found = advice({"full": 0.95, "probe": 0.9475, "tfidf": 0.8}, {"full": 100.0, "probe": 3.0})
    assert (found["recommended"], found["why"]) == ("probe", "cheapest_of_best")
    assert "3 s of training instead of up to 100 s" in found["reason"]


def test_a_cheaper_one_that_does_not_beat_the_floor_is_passed_over_and_the_reason_says_so():
    # Of 400 rows right: 328, 325, 320. Exact McNemar: 8 : 0 is p = 2 / 2^8 = 0.008, 5 : 0 is 0.063, 3 : 0 is 0.25.
    found = advice({"full": 0.82, "probe": 0.8125, "tfidf": 0.8}, {"full": 100.0, "probe": 3.0})
    assert (found["recommended"], found["why"]) == ("full", "cheapest_above_floor")
    assert found["reason"].endswith("(full, probe) and that are better than every floor beyond chance.")


def test_a_method_that_is_alone_at_the_top_is_recommended_whatever_it_costs():
    found = advice({"full": 0.95, "probe": 0.85, "tfidf": 0.8}, {"full": 100.0, "probe": 3.0})
    assert (found["recommended"], found["why"]) == ("full", "alone_best")


def test_nothing_is_recommended_above_a_floor_that_it_does_not_beat_beyond_chance():
    found = advice({"full": 0.81, "probe": 0.8, "tfidf": 0.8075}, {"full": 100.0, "probe": 3.0})
    assert (found["recommended"], found["why"]) == ("tfidf", "floor")
    assert set(found["not_above_floor"]) == {"full", "probe"}


def test_where_fewer_rows_would_change_the_choice_it_is_told():
    def point(rows: int, value: float) -> dict[str, Any]:
        return {"rows": rows, "value": value, "error": 0.02}

    curves = {
        "full": [point(100, 0.5), point(300, 0.9), {"rows": 900, "value": 0.95, "error": None}],
        "probe": [point(100, 0.7), point(300, 0.87), {"rows": 900, "value": 0.88, "error": None}],
    }
    methods = {"full": {"seconds": 90.0}, "probe": {"seconds": 2.0}}
    assert _flips("full", curves, methods, "max") == [{"rows": 100, "method": "probe", "value": 0.7}]
    assert _flips("probe", curves, methods, "max") == [{"rows": 300, "method": "full", "value": 0.9}]
