"""A search from its recipe to its answer: order, budget, sharing, and an end that does not fool its user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import migaki.trial
from migaki.cli import main
from migaki.core.errors import NonFiniteError, RecipeError, StoppedError, UsageError
from migaki.recipe import Recipe
from migaki.search import Found, read_space, search
from migaki.search.display import Board
from migaki.search.shared import Shared
from migaki.training.interrupts import Interrupts
from migaki.training.monitor import Monitor
from tiny import LABELS, chat_rows, labelled_rows, write_rows

LORA = "method: {kind: lora, rank: 2}\n"
SHORT = "training: {epochs: 2, batch_size: 16}\n"


def quiet(job: Any) -> Board:
    return Board(job)


@pytest.fixture
def write(tmp_path: Path, tiny_encoder: Path) -> Any:
    """Writes a recipe over rows of which a fifth is labelled wrongly."""
    rows = [{**row, "label": LABELS[0]} if i % 5 == 0 else row for i, row in enumerate(labelled_rows(150))]
    write_rows(tmp_path / "rows.jsonl", rows)

    def write(text: str, name: str = "r.yaml") -> Path:
        head = f"task: classify_text\ndata: {{train: rows.jsonl, valid: 0.2, test: 0.3}}\nmodel: {tiny_encoder}\n"
        (tmp_path / name).write_text(head + text, encoding="utf-8")
        return tmp_path / name

    return write


def run(path: Path, runs: Path, **options: Any) -> Found:
    return search(read_space(path), runs, board_for=quiet, **{"seeds": 1, **options})


def last_json(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found


def test_a_grid_of_two_by_three_is_six_trials_in_their_order(write, tmp_path, capsys):
    path = write("method: {kind: lora, rank: [2, 4]}\ntraining: {epochs: 1, learning_rate: [1e-4, 1e-3, 1e-2]}\n")
    assert (
        main(["search", str(path), "--sampler", "grid", "--seeds", "1", "--runs", str(tmp_path / "runs"), "--json"])
        == 0
    )
    said = last_json(capsys.readouterr().out)
    assert list(said) == ["trials", "best", "default", "gain", "beats_default", "recipe"]
    assert [(t["settings"]["method.rank"], t["settings"]["training.learning_rate"]) for t in said["trials"]] == [
        (2, 1e-4),
        (2, 1e-3),
        (2, 1e-2),
        (4, 1e-4),
        (4, 1e-3),
        (4, 1e-2),
    ]
    assert [t["number"] for t in said["trials"]] == [1, 2, 3, 4, 5, 6]
    assert all(t["state"] == "finished" for t in said["trials"])
    assert set(said["gain"]) == {"value", "low", "high"}
    for one in (said["best"], said["default"]):
        assert set(one) == {"settings", "valid", "test"}
    chosen = Recipe.from_file(said["recipe"])
    assert chosen.data.seed == 0
    folder = Path(said["recipe"]).parent
    assert {"search.html", "search.json", "space.yaml", "journal.jsonl"} <= {p.name for p in folder.iterdir()}
    assert sorted(p.name for p in (folder / "trials").iterdir()) == [f"{i:04d}" for i in range(1, 7)]
    assert Recipe.from_file(folder / "trials" / "0006" / "recipe.yaml").method.rank == 4


def test_a_value_that_the_model_does_not_take_is_refused_before_work(write, tmp_path):
    path = write("method:\n  kind: frozen\n  blocks: [1, 99]\n" + SHORT)
    with pytest.raises(RecipeError, match=r"r\.yaml:6: method\.blocks: 99 cannot be tried: .*2 blocks"):
        run(path, tmp_path / "runs")
    assert not list((tmp_path / "runs").glob("search-*"))


def test_an_impossible_value_is_exit_2(write, tmp_path, capsys):
    path = write("method:\n  kind: lora\n  rank: [4, 0]\n")
    assert main(["search", str(path), "--runs", str(tmp_path / "runs")]) == 2
    assert "r.yaml:6: method.rank: 0 cannot be tried" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_data_settings_may_be_searched_as_long_as_the_judged_rows_stay_the_same(write, tmp_path):
    space = read_space(write(LORA + SHORT), ["data.test={choice: [0.3, 0.4]}"])
    with pytest.raises(RecipeError, match=r"data\.test: 0\.4 cannot be tried: changes which rows are in"):
        search(space, tmp_path / "runs", board_for=quiet)
    space = read_space(write("method: tfidf\n"), ["data.clean={choice: [[], [spaces]]}"])
    assert len(search(space, tmp_path / "runs", sampler="grid", board_for=quiet, seeds=1).facts["trials"]) == 2


def test_a_bad_default_is_beaten_and_a_plain_recipe_is_exported(write, tmp_path):
    path = write("method: {kind: lora, rank: 4}\ntraining: {epochs: 6, batch_size: 8, learning_rate: 1e-9}\n")
    settings = ["training.learning_rate={log: [1e-3, 1e-1], default: 1e-9}", "task.head=random"]
    space = read_space(path, settings)
    found = search(space, tmp_path / "runs", trials=6, board_for=quiet, seeds=2)
    facts = found.facts
    assert facts["beats_default"]
    assert facts["best_is"].startswith("trial ")
    assert facts["gain"]["low"] > 0
    assert facts["gain"]["value"] == pytest.approx(facts["best"]["test"]["value"] - facts["default"]["test"]["value"])
    assert found.recipe.name == "best.yaml"
    best = Recipe.from_file(found.recipe)
    assert best.learning_rate == facts["best"]["settings"]["training.learning_rate"]
    assert best.seed == 0


def test_where_nothing_is_better_the_default_is_kept_and_it_is_said(write, tmp_path, capsys):
    path = write(LORA + "training: {epochs: 1, learning_rate: {log: [1e-9, 1e-8], default: 1e-9}}\n")
    arguments = ["--trials", "4", "--seeds", "2", "--runs", str(tmp_path / "runs"), "--json"]
    assert main(["search", str(path), *arguments]) == 0
    out = capsys.readouterr().out
    said = last_json(out)
    assert not said["beats_default"]
    assert Path(said["recipe"]).name == "default.yaml"
    assert "nothing better than the default was found" in out
    assert "the validation rows were looked at" in out


def test_the_models_of_the_end_have_seeds_that_no_trial_had(write, tmp_path):
    found = run(write(LORA + "training: {epochs: 1, learning_rate: [1e-4, 1e-3]}\n"), tmp_path / "runs", seeds=2)
    trials = {Recipe.from_file(p).seed for p in found.folder.glob("trials/*/recipe.yaml")}
    finals = [Recipe.from_file(p).seed for p in found.folder.glob("finals/*/recipe.yaml")]
    assert trials == {0}
    assert sorted(set(finals)) == [1, 2]
    assert len(found.facts["default"]["test"]["seeds"]) == 2


def test_the_test_rows_are_opened_once_and_for_two_sets_of_models_alone(write, tmp_path, monkeypatch):
    path = write(LORA + "training: {epochs: 1, learning_rate: [1e-4, 1e-3, 1e-2]}\n")
    space = read_space(path)
    test = {row.place for row in Shared(tmp_path).splits(space.default).test.rows}
    asked: list[set[Any]] = []
    from migaki.methods.tuned import TunedLearner

    predict = TunedLearner.predict

    def watched(self: Any, rows: Any, **options: Any) -> Any:
        asked.append({row.place for row in rows})
        return predict(self, rows, **options)

    monkeypatch.setattr(TunedLearner, "predict", watched)
    found = search(space, tmp_path / "runs", board_for=quiet, seeds=2)
    opened = [i for i, places in enumerate(asked) if places & test]
    # The default and the candidate, with two seeds each, behind everything that was judged before.
    assert opened == list(range(len(asked) - 4, len(asked)))
    with_test = [final["name"] for final in found.facts["finals"] if final["test"]]
    assert with_test == ["default", found.facts["best_is"]]
    asked.clear()
    again = search(space, tmp_path / "runs", board_for=quiet, seeds=2)
    assert asked == []
    assert again.facts["best"] == found.facts["best"]


def test_more_trials_join_those_that_are_there(write, tmp_path):
    path = write(LORA + "training: {epochs: 1, learning_rate: {log: [1e-4, 1e-2]}}\n")
    first = run(path, tmp_path / "runs", trials=4).facts
    more = run(path, tmp_path / "runs", trials=6).facts
    keep = ("number", "settings", "state", "value", "loss")
    assert [{k: t[k] for k in keep} for t in more["trials"][:4]] == [{k: t[k] for k in keep} for t in first["trials"]]
    assert len(more["trials"]) == 6
    assert len(list((tmp_path / "runs").glob("search-*"))) == 1


def test_weights_are_loaded_once_and_rows_read_once_for_all_trials(write, tmp_path, monkeypatch):
    loaded, read = [], []
    import migaki.search.shared as shared
    from migaki.data import Data

    base_of, load = shared.base_of, Data.load
    monkeypatch.setattr(shared, "base_of", lambda *a: loaded.append(1) or base_of(*a))
    monkeypatch.setattr(Data, "load", lambda self, *a: read.append(1) or load(self, *a))
    run(write(LORA + "training: {epochs: 1, learning_rate: [1e-4, 1e-3, 1e-2]}\n"), tmp_path / "runs")
    assert (len(loaded), len(read)) == (1, 1)


def test_what_lies_below_the_first_trained_block_is_computed_once_for_all_trials(write, tmp_path, monkeypatch):
    from migaki.tasks.body import Body

    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))
    computed = []
    below = Body.below
    monkeypatch.setattr(Body, "below", lambda self, rows, *a: computed.append(len(rows)) or below(self, rows, *a))
    path = write(
        "method: {kind: frozen, blocks: 1}\ntraining: {epochs: 2, learning_rate: [1e-4, 1e-3, 3e-3], weight_decay: [0.0, 0.1]}\n"
    )
    run(path, tmp_path / "runs", sampler="grid", seeds=2)
    assert len(computed) == 2  # the train rows and the valid rows, for six trials and four finals


def test_a_halted_trial_goes_on_from_its_checkpoint(write, tmp_path):
    path = write(LORA + "training: {epochs: 3, batch_size: 16, learning_rate: {log: [1e-4, 1e-2]}}\n")
    found = run(path, tmp_path / "runs", trials=7)
    states = [t["state"] for t in found.facts["trials"]]
    assert "stopped" in states
    assert "finished" in states
    taken_up = 0
    for folder in sorted(found.folder.glob("trials/*")):
        events = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        steps = [e["step"] for e in events if e["event"] == "step"]
        assert steps == list(range(1, len(steps) + 1))
        taken_up += any(e["event"] == "stop" for e in events)
        assert not (folder / "checkpoints").exists()
    assert taken_up == states.count("finished")
    early = [t for t in found.facts["trials"] if t["state"] == "stopped"]
    assert all(t["share"] == pytest.approx(1 / 3) for t in early)


# 75 rows train and 30 validate: an evaluation costs as much as 12 rows of training, so there have to be 48 rows between two of
# them and an epoch has room for one. 93 rows and 12: 4.8 and 19.2, room for four, of which a ninth of three epochs needs three.
@pytest.mark.parametrize(
    ("valid", "settings", "looks"),
    [
        (0.2, ["training.learning_rate={log: [1e-4, 1e-2]}"], 1),
        (0.08, ["training.learning_rate={log: [1e-4, 1e-2]}"], 3),
        (0.08, ["training.epochs={int: [2, 5]}"], 2),  # 9 evaluations of 5 epochs are 2 in each
        (0.08, ["training.epochs={int: [2, 9]}"], 1),
        (0.08, ["training.evaluations_per_epoch=1"], 1),  # as the user says
        (0.08, ["training.early_stopping=2"], 1),  # counts evaluations, so they stay as they are
    ],
)
def test_trials_stand_on_their_first_rung_before_an_epoch_where_that_is_cheap(write, tmp_path, valid, settings, looks):
    space = read_space(write(LORA + "training: {epochs: 3, batch_size: 16}\n"), [f"data.valid={valid}", *settings])
    found = search(space, tmp_path / "runs", trials=3, board_for=quiet, seeds=1)
    chosen = Recipe.from_file(found.recipe).training
    assert chosen.evaluations_per_epoch == looks
    if looks == 3:
        assert min(trial["share"] for trial in found.facts["trials"]) == pytest.approx(1 / 9)


def test_a_paused_attempt_ends_as_if_it_never_was(write, tmp_path, tiny_encoder):
    from migaki.trial import attempt

    recipe = Recipe.from_file(
        write(LORA + "training: {epochs: 3, batch_size: 16, learning_rate: 3e-3, dropout: 0.1}\n")
    )
    shared = Shared(tmp_path)
    splits, base = shared.splits(recipe), shared.base(recipe)
    whole = attempt(recipe, splits.train, splits.valid, base, tmp_path / "whole", Monitor())
    for n in (1, 2):
        part = attempt(
            recipe, splits.train, splits.valid, base, tmp_path / "parts", Monitor(), goes_on=lambda i, _, n=n: i < n
        )
        assert not part.complete
        assert part.evaluations == n + 1
        assert len(list((tmp_path / "parts" / "checkpoints").iterdir())) <= 2
    rest = attempt(recipe, splits.train, splits.valid, base, tmp_path / "parts", Monitor(), goes_on=lambda i, _: True)
    assert rest.complete
    assert (rest.scores, rest.reached, rest.gained) == (whole.scores, whole.reached, whole.gained)
    assert rest.evaluations == whole.evaluations == 4


def test_the_untrained_learner_is_judged_once_for_all_trials_that_begin_with_it(write, tmp_path, tiny_encoder):
    from migaki.trial import attempt

    recipe = Recipe.from_file(write(LORA + "training: {epochs: 1, batch_size: 16, learning_rate: 3e-3}\n"))
    shared = Shared(tmp_path)
    splits, base, start = shared.splits(recipe), shared.base(recipe), shared.start(recipe)
    alone = attempt(recipe, splits.train, splits.valid, base, tmp_path / "alone", Monitor())
    first = attempt(recipe, splits.train, splits.valid, base, tmp_path / "first", Monitor(), start=start)
    assert start == json.loads((tmp_path / "alone/history.jsonl").read_text().splitlines()[-3])["metrics"]
    start["loss"] += 1.0  # so that one can tell whether it is judged anew
    second = attempt(recipe, splits.train, splits.valid, base, tmp_path / "second", Monitor(), start=start)
    found = [json.loads(line) for line in (tmp_path / "second/history.jsonl").read_text().splitlines()]
    assert next(line["loss"] for line in found if line["event"] == "evaluation" and line["step"] == 0) == start["loss"]
    assert alone.reached == first.reached == second.reached

    def changed(**settings: Any) -> Recipe:
        return recipe.model_copy(update=settings)

    quick = recipe.training.model_copy(update={"learning_rate": 1e-5, "epochs": 2, "warmup": 0.5})
    assert shared.start(changed(training=quick)) is start
    assert shared.start(changed(seed=recipe.seed + 1)) is not start
    weighted = recipe.training.model_copy(update={"label_smoothing": 0.1})
    assert shared.start(changed(training=weighted)) is not start


@pytest.mark.parametrize("pruner", ["none", "hyperband", "median", "patience"])
def test_every_pruner_ends_with_an_answer(write, tmp_path, pruner):
    path = write(LORA + "training: {epochs: 4, batch_size: 16, learning_rate: {log: [1e-5, 1e-2]}}\n")
    facts = run(path, tmp_path / "runs", trials=8, pruner=pruner).facts
    states = [t["state"] for t in facts["trials"]]
    assert len(states) == 8
    assert set(states) <= {"finished", "stopped"}
    assert "finished" in states
    if pruner in ("none", "patience"):
        assert set(states) == {"finished"}


def test_a_rate_at_which_training_diverges_is_a_failed_trial_and_no_end(write, tmp_path, monkeypatch):
    attempt = migaki.trial.attempt

    def failing(recipe: Recipe, *rest: Any, **options: Any) -> Any:
        if recipe.learning_rate > 0.5:
            raise NonFiniteError("the loss is nan")
        return attempt(recipe, *rest, **options)

    monkeypatch.setattr("migaki.search.worker.attempt", failing)
    facts = run(
        write(LORA + "training: {epochs: 1, learning_rate: [1e-3, 1e-2, 1.0]}\n"), tmp_path / "runs", trials=4
    ).facts
    by_rate = {t["settings"]["training.learning_rate"]: t for t in facts["trials"]}
    assert by_rate[1.0]["state"] == "failed"
    assert "nan" in by_rate[1.0]["reason"]
    assert by_rate[1e-3]["state"] != "failed"


def test_a_finite_space_ends_when_all_of_it_was_tried(write, tmp_path):
    facts = run(write("method: {kind: probe, penalty: [0.1, 1.0, 10.0]}\n"), tmp_path / "runs", trials=20).facts
    tried = [t["settings"]["method.penalty"] for t in facts["trials"]]
    assert sorted(tried[1:]) == [0.1, 1.0, 10.0]
    assert tried[0] is None  # the default chooses by itself
    assert len(facts["default"]["valid"]["seeds"]) == 1  # another seed gives the same model


def test_a_method_that_names_nothing_to_search_says_so(write, tmp_path):
    with pytest.raises(RecipeError, match="zero_shot names nothing to search"):
        run(write("method: zero_shot\n"), tmp_path / "runs")


def test_methods_themselves_can_be_searched(write, tmp_path):
    path = write("method: [{kind: lora, rank: 2}, probe, tfidf]\ntraining: {epochs: 1}\n")
    facts = run(path, tmp_path / "runs", sampler="grid").facts
    assert [t["settings"]["method"] for t in facts["trials"]] == [{"kind": "lora", "rank": 2}, "probe", "tfidf"]
    assert facts["default"]["settings"] == {"method": {"kind": "lora", "rank": 2}}


def test_a_second_objective_gives_a_front_that_no_trial_beats(write, tmp_path):
    path = write("method: {kind: lora, rank: [1, 2, 4, 8]}\ntraining: {epochs: 1, learning_rate: [1e-3, 3e-3]}\n")
    facts = run(path, tmp_path / "runs", sampler="grid", second="parameters").facts
    trials = {t["number"]: t for t in facts["trials"]}
    assert len({t["parameters"] for t in trials.values()}) == 4
    for number in facts["pareto"]:
        ours = trials[number]
        assert not any(
            t["value"] >= ours["value"]
            and t["parameters"] <= ours["parameters"]
            and t["number"] != number
            and (t["value"], -t["parameters"]) != (ours["value"], -ours["parameters"])
            for t in trials.values()
        )
    with pytest.raises(UsageError, match="needs whole trainings"):
        run(path, tmp_path / "runs", second="latency", pruner="halving")


def test_the_time_of_answers_can_be_the_second_objective(write, tmp_path):
    facts = run(
        write("method: {kind: lora, rank: [1, 8]}\n" + SHORT), tmp_path / "runs", sampler="grid", second="latency"
    ).facts
    assert all(t["latency"] > 0 for t in facts["trials"])


def test_a_budget_in_minutes_leaves_time_for_the_end(write, tmp_path):
    path = write(LORA + "training: {epochs: 1, learning_rate: {log: [1e-4, 1e-2]}}\n")
    facts = run(path, tmp_path / "runs", minutes=0.0001).facts
    assert len(facts["trials"]) <= 2
    assert facts["default"]["test"]


def test_ctrl_c_keeps_what_was_done_and_the_same_command_ends_alike(write, tmp_path, monkeypatch):
    path = write(LORA + "training: {epochs: 3, batch_size: 16, learning_rate: {log: [1e-4, 1e-2]}}\n")
    keep = ("number", "settings", "state", "value", "loss")
    whole = run(path, tmp_path / "whole", trials=6).facts
    asked = []
    check = Interrupts.check

    def stopping(self: Any, *rest: Any) -> None:
        check(self, *rest)
        asked.append(1)
        if len(asked) % 40 == 0:
            raise StoppedError(2)

    stops = 0
    with monkeypatch.context() as patched:
        patched.setattr(Interrupts, "check", stopping)
        for _ in range(20):
            try:
                facts = run(path, tmp_path / "stopped", trials=6).facts
                break
            except StoppedError:
                stops += 1
    assert stops > 2
    assert [{k: t[k] for k in keep} for t in facts["trials"]] == [{k: t[k] for k in keep} for t in whole["trials"]]
    assert facts["best"] == whole["best"]


def test_a_generator_is_searched_by_its_loss(tmp_path, tiny_decoder):
    write_rows(tmp_path / "chats.jsonl", chat_rows(40))
    (tmp_path / "r.yaml").write_text(
        f"task: {{kind: generate, max_new_tokens: 4, generated_rows: 2}}\ndata: {{train: chats.jsonl}}\nmodel: {tiny_decoder}\n"
        "method: {kind: lora, rank: 2}\ntraining: {epochs: 2, batch_size: 8, learning_rate: {log: [1e-4, 3e-2]}}\n"
    )
    facts = run(tmp_path / "r.yaml", tmp_path / "runs", trials=5).facts
    assert (facts["metric"], facts["better"]) == ("loss", "min")
    values = {t["number"]: t["value"] for t in facts["trials"] if t["state"] == "finished"}
    assert facts["order"][0] == min(values, key=lambda number: values[number])
    if facts["beats_default"]:
        assert facts["gain"]["value"] < 0


def test_an_unknown_sampler_is_named(write, tmp_path):
    with pytest.raises(UsageError, match="--sampler magic: there is no such one; there are tpe, gp, random, grid"):
        run(write(LORA), tmp_path / "runs", sampler="magic")
