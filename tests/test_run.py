"""A finished run: its figures, its answers, what its files say, and what it refuses."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import migaki
import processes
from migaki.core.errors import DamagedError, DataError, ModelError, NonFiniteError, RunNotFoundError, UsageError
from migaki.core.store import list_runs, read_json, verify
from migaki.core.types import Turn
from migaki.run import base_of, judge_of
from migaki.training.monitor import Monitor
from migaki.trial import attempt
from tiny import chat_rows, labelled_rows, save_encoder, write_rows


@pytest.fixture(scope="module")
def classifier(finished_runs: Path) -> migaki.Run:
    return migaki.load(1, finished_runs / "runs")


@pytest.fixture(scope="module")
def chat(finished_runs: Path) -> migaki.Run:
    return migaki.load("0002", finished_runs / "runs")


@pytest.fixture
def copied(finished_runs: Path, tmp_path: Path) -> Path:
    """The runs, to be spoilt."""
    return Path(shutil.copytree(finished_runs / "runs", tmp_path / "runs"))


def values(metrics: Any) -> dict[str, float]:
    return {name: measure.value for name, measure in metrics.items()}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# what a run answers


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_loaded_run_reaches_the_figures_it_was_stored_with(finished_runs, number):
    run = migaki.load(number, finished_runs / "runs")
    evaluation = run.evaluate()
    assert values(evaluation.metrics) == pytest.approx(values(run.metrics), rel=1e-5)
    assert {m.n for m in evaluation.metrics.values()} == {m.n for m in run.metrics.values()}
    for measure in run.metrics.values():
        assert measure.low <= measure.value <= measure.high


@pytest.mark.parametrize("keep_best_by", ["metric", "loss"])
def test_an_attempt_keeps_its_model_by_what_a_run_would_keep_it(tiny_encoder, tmp_path, keep_best_by):
    """The best validation figures of both are those of the same step."""
    training = {"epochs": 3, "learning_rate": 5e-3, "keep_best_by": keep_best_by}
    data = {"train": labelled_rows(60)}
    recipe = migaki.Recipe(
        task="classify_text", model=str(tiny_encoder), data=data, method="full", generality="off", training=training
    )
    run = migaki.train(recipe, tmp_path / "runs")
    splits = recipe.data.load(recipe.task.content_kind, recipe.seed)
    base = base_of(recipe.model, "encoder", tmp_path)
    trial = attempt(recipe, splits.train, splits.valid, base, tmp_path / "attempt", Monitor())
    assert trial.scores == pytest.approx(run.results["valid"], rel=1e-4)
    better = {"metric": ("accuracy", "max"), "loss": ("loss", "min")}[keep_best_by]
    judge = judge_of(recipe, SimpleNamespace(labels=("a",)))
    assert (judge.metric, judge.better) == better


def test_no_figure_of_the_fixture_is_trivial(classifier):
    """Were the accuracy 0 or 1, most comparisons here would hold for a broken run too."""
    assert 0.5 < classifier.metrics["accuracy"].value < 1


def test_a_run_loaded_in_another_process_answers_the_same(classifier):
    texts = ["the printer does not print", "send the invoice", "返品したいのですが"]
    said = processes.run(
        "import sys, json, migaki\n"
        "run = migaki.load(sys.argv[1])\n"
        "print(json.dumps([[p.output, p.confidence, *p.scores] for p in run.predict(json.loads(sys.argv[2]))]))",
        classifier.path,
        json.dumps(texts),
    )
    there = json.loads(processes.lines(said)[-1])
    here = classifier.predict(texts)
    assert [one[0] for one in there] == [p.output for p in here]
    assert [x for one in there for x in one[1:]] == pytest.approx(
        [x for p in here for x in (p.confidence, *p.scores)], rel=1e-5
    )


def test_predictions_come_in_the_order_of_the_inputs_and_do_not_depend_on_their_neighbours(classifier):
    texts = [row["text"] for row in labelled_rows(20)]
    together = classifier.predict(texts)
    alone = [classifier.predict([text])[0] for text in texts]
    assert [p.output for p in together] == [p.output for p in alone]
    assert [p.confidence for p in together] == pytest.approx([p.confidence for p in alone], rel=1e-4)
    assert [p.place.line for p in together] == list(range(1, 21))
    for p in together:
        assert sum(p.scores) == pytest.approx(1)
        assert max(p.scores) == p.confidence


def test_inputs_may_be_texts_mappings_or_messages(classifier, chat):
    text = "my screen is black 1"
    a, b = classifier.predict([text, {"text": text, "id": 7}])
    assert (a.output, a.confidence) == (b.output, pytest.approx(b.confidence))
    prompts = [
        text,
        {"prompt": text},
        [{"role": "user", "content": text}],
        {"messages": [{"role": "user", "content": text}]},
    ]
    assert len({p.output for p in chat.predict(prompts)}) == 1
    assert classifier.predict([]) == chat.predict([]) == []


def test_one_text_instead_of_a_list_is_refused(classifier):
    with pytest.raises(UsageError, match="takes a list of texts"):
        classifier.predict("my screen is black")


@pytest.mark.parametrize("value", ["", " \n", 5, None, {"txt": "a"}, "\ud800"])
def test_an_input_that_cannot_be_read_is_refused(classifier, chat, value):
    for run in (classifier, chat):
        with pytest.raises(DataError):
            run.predict([value])


def test_other_rows_are_judged_from_a_file_a_path_or_a_list(classifier, tmp_path):
    rows = labelled_rows(12)
    path = write_rows(tmp_path / "more.jsonl", rows)
    figures = [classifier.evaluate(data).metrics for data in (rows, path, str(path))]
    assert figures[0] == figures[1] == figures[2]
    right = sum(
        p.output == row["label"] for p, row in zip(classifier.predict([r["text"] for r in rows]), rows, strict=True)
    )
    assert figures[0]["accuracy"].value == right / 12


def test_a_label_that_the_run_does_not_know_is_refused_with_its_place(classifier):
    with pytest.raises(DataError, match=r"data:2 has the label 'sales', which the model does not know"):
        classifier.evaluate([{"text": "a", "label": "billing"}, {"text": "b", "label": "sales"}])


def test_a_chat_answers_greedily_and_says_whether_it_stopped(chat):
    turns = [Turn("user", f"{chat_rows()[0]['prompt']}")]
    answer, stopped = chat.generate(turns)
    assert (answer, stopped) == chat.generate(turns)
    assert answer
    assert isinstance(stopped, bool)
    assert chat.predict([turns[0].content])[0].output == answer


def test_a_classifier_does_not_chat(classifier):
    with pytest.raises(UsageError, match="ask it with `migaki predict`"):
        classifier.generate([Turn("user", "hello")])


# what the files say


def test_every_file_of_a_run_is_sealed(finished_runs):
    for run in list_runs(finished_runs / "runs"):
        sealed = {entry["path"] for entry in verify(run.path)["files"]}
        there = {p.relative_to(run.path).as_posix() for p in run.path.rglob("*") if p.is_file()}
        assert there - sealed == {".lock", "MANIFEST.json"}


def test_the_environment_names_machine_libraries_and_model(classifier, tiny_encoder):
    environment = read_json(classifier.path / "environment.json")
    assert environment["python"] == platform.python_version()
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["packages"].keys() >= {"transformers", "tokenizers", "safetensors", "numpy"}
    assert environment["threads"] == torch.get_num_threads()
    assert environment["cores"] >= 1
    assert environment["memory_bytes"] > 2**28
    assert environment["cpu"]
    assert "migaki" in environment
    model = environment["model"]
    assert (model["reference"], model["licence"]) == (str(tiny_encoder), "unknown")
    assert len(model["fingerprint"]) == 64
    assert model["parameters"] == classifier.results["cost"]["total_parameters"]


def test_the_data_file_counts_every_row_once(classifier, finished_runs):
    data = read_json(classifier.path / "data.json")
    splits = data["splits"]
    assert sum(split["rows"] for split in splits.values()) == 90
    assert {split["source"] for split in splits.values()} == {str(finished_runs / "rows.jsonl")}
    assert len({split["fingerprint"] for split in splits.values()}) == 3
    assert data["columns"] == {"text": "text", "label": "label"}
    assert sum(data["labels"].values()) == splits["train"]["rows"]
    assert splits["test"]["targets"] == splits["test"]["rows"]
    assert splits["train"]["tokens"] > splits["train"]["rows"]


def test_the_history_holds_every_step_and_evaluation(classifier):
    history = lines(classifier.path / "history.jsonl")
    steps = [line for line in history if line["event"] == "step"]
    data = read_json(classifier.path / "data.json")["splits"]
    per_epoch = -(-data["train"]["rows"] // 16)
    assert [line["step"] for line in steps] == list(range(1, 2 * per_epoch + 1))
    assert sum(line["rows"] for line in steps) == 2 * data["train"]["rows"]
    assert sum(line["tokens"] for line in steps) == 2 * data["train"]["tokens"]
    assert max(line["learning_rate"] for line in steps) == pytest.approx(1e-3)
    evaluations = [line for line in history if line["event"] == "evaluation"]
    assert [line["step"] for line in evaluations] == [0, per_epoch, 2 * per_epoch]
    best = max(evaluations, key=lambda line: (line["value"], -line["step"]))
    assert classifier.results["cost"]["best_step"] == best["step"]
    assert classifier.results["cost"]["steps"] == 2 * per_epoch


def test_the_predictions_are_the_test_rows_and_give_the_figures(classifier, finished_runs):
    rows = lines(classifier.path / "predictions.jsonl")
    source = lines(finished_runs / "rows.jsonl")
    assert len(rows) == classifier.metrics["accuracy"].n
    for row in rows:
        assert {"text": row["text"], "label": row["target"]} == source[row["line"] - 1]
    for which, metrics in ((lambda row: row, classifier.metrics), (lambda row: row["baseline"], classifier.baseline)):
        hits = sum(which(row)["output"] == row["target"] for row in rows)
        assert metrics["accuracy"].value == hits / len(rows)
        loss = sum(which(row)["loss"] for row in rows) / len(rows)
        assert metrics["loss"].value == pytest.approx(loss)


def test_only_the_asked_number_of_answers_is_written(chat):
    rows = lines(chat.path / "predictions.jsonl")
    assert [row["stopped"] is not None for row in rows] == [i < 3 for i in range(len(rows))]
    assert chat.metrics["loss"].n == len(rows) > 3
    assert chat.metrics["stopped"].n == 3


def test_the_summary_has_exactly_the_promised_keys(classifier):
    summary = classifier.summary()
    assert list(summary) == [
        "run",
        "folder",
        "metrics",
        "baseline",
        "forgetting",
        "train_seconds",
        "peak_bytes",
        "trainable_parameters",
        "total_parameters",
    ]
    for measure in [*summary["metrics"].values(), *summary["baseline"].values()]:
        assert list(measure) == ["value", "low", "high", "n"]
    assert 0 < summary["trainable_parameters"] < summary["total_parameters"]
    assert summary["train_seconds"] > 0
    assert summary["peak_bytes"] > 2**20


def test_a_full_fine_tuning_trains_every_parameter(chat):
    summary = chat.summary()
    assert summary["trainable_parameters"] == summary["total_parameters"]


# chains


def test_a_run_on_a_run_starts_where_that_one_ended(finished_runs, chat):
    """The same test rows: what is called base in the third run is the tuned model of the second."""
    third = migaki.load("0003-generate-lora", finished_runs / "runs")
    assert values(third.baseline) == pytest.approx(values(chat.metrics), rel=1e-5)
    environment = read_json(third.path / "environment.json")
    assert environment["model"]["reference"] == "run:2"


def test_an_adapter_serves_as_a_base_merged(finished_runs, tmp_path):
    """Run 3 is an adapter on run 2; a fourth run starts from both together."""
    runs = Path(shutil.copytree(finished_runs / "runs", tmp_path / "runs"))
    third = migaki.load(3, runs)
    recipe = {**third.recipe.resolved(), "model": "run:3", "training": {"max_steps": 1}}
    fourth = migaki.train(recipe, runs)
    assert values(fourth.baseline) == pytest.approx(values(third.metrics), rel=1e-4)
    proof = read_json(fourth.path / "environment.json")["model"]["merge"]
    assert (proof["rows"], proof["equal"]) == (2, 1.0)
    assert proof["largest_difference"] <= 1e-4
    assert values(migaki.load(4, runs).evaluate().metrics) == pytest.approx(values(fourth.metrics), rel=1e-4)


def test_a_chained_run_is_opened_by_its_folder_from_anywhere(finished_runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = migaki.load(finished_runs / "runs" / "0003-generate-lora")
    assert run.predict(["my screen is black"])[0].stopped is not None


def test_a_run_of_another_role_is_no_base(finished_runs, tmp_path):
    recipe = {"task": "classify_text", "data": {"train": labelled_rows()}, "model": "run:2"}
    runs = finished_runs / "runs"
    with pytest.raises(ModelError, match=r"run:2 is a decoder \(generate\); this task needs an encoder"):
        migaki.train(recipe, runs)
    assert len(list_runs(runs)) == 3


# refusals


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "adapter_config.json", "head.safetensors", "task.json", "MANIFEST.json"]
)
@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_a_damaged_model_file_is_refused_and_named(copied, name, damage):
    path = copied / "0001-classify_text-lora" / "model" / name
    if damage == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    run = migaki.load(1, copied)
    with pytest.raises(DamagedError, match=r"0001-classify_text-lora/model"):
        run.predict(["hello"])


def test_a_damaged_weight_file_of_a_whole_model_is_refused(copied):
    path = copied / "0002-generate-full" / "model" / "model.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    tensors[name] = tensors[name] + 1e-7
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(DamagedError, match=r"model\.safetensors"):
        migaki.load(2, copied).generate([Turn("user", "hello")])
    with pytest.raises(DamagedError, match=r"model\.safetensors"):
        migaki.load(3, copied).generate([Turn("user", "hello")])


def test_checking_a_run_finds_damage_outside_the_model_too(copied):
    run = migaki.load(1, copied)
    run.check()
    (run.path / "history.jsonl").write_text("")
    with pytest.raises(DamagedError, match=r"history\.jsonl"):
        run.check()


def test_an_adapter_is_refused_on_a_base_with_other_weights(tmp_path):
    base = save_encoder(tmp_path / "base", seed=1)
    recipe = {
        "task": "classify_text",
        "data": {"train": labelled_rows()},
        "model": str(base),
        "training": {"max_steps": 1},
    }
    run = migaki.train(recipe, tmp_path / "runs")
    before = run.predict(["hello"])[0]
    shutil.move(base, tmp_path / "kept")
    save_encoder(base, seed=2)
    with pytest.raises(ModelError, match=rf"{base} has other weights now than when run {run.id} was trained"):
        migaki.load(run.id, tmp_path / "runs").predict(["hello"])
    shutil.rmtree(base)
    shutil.move(tmp_path / "kept", base)
    assert migaki.load(run.id, tmp_path / "runs").predict(["hello"])[0].confidence == pytest.approx(before.confidence)


def test_a_whole_model_needs_its_base_no_more(finished_runs, tmp_path):
    base = save_encoder(tmp_path / "base")
    recipe = {"task": "classify_text", "data": {"train": labelled_rows()}, "model": str(base), "method": "full"}
    run = migaki.train({**recipe, "training": {"max_steps": 1}}, tmp_path / "runs")
    shutil.rmtree(base)
    again = migaki.load(run.id, tmp_path / "runs")
    assert values(again.evaluate().metrics) == pytest.approx(values(run.metrics), rel=1e-5)


def test_changed_test_rows_are_not_judged_in_silence(tmp_path, tiny_encoder):
    path = write_rows(tmp_path / "rows.jsonl", labelled_rows(60))
    recipe = {
        "task": "classify_text",
        "data": {"train": str(path)},
        "model": str(tiny_encoder),
        "training": {"max_steps": 1},
    }
    run = migaki.train(recipe, tmp_path / "runs")
    write_rows(path, labelled_rows(63))
    with pytest.raises(DataError, match=f"not those that run {run.id} was judged on"):
        run.evaluate()


def test_a_run_that_became_nan_is_failed_and_says_at_which_rows(tmp_path, tiny_encoder):
    path = write_rows(tmp_path / "rows.jsonl", labelled_rows(60))
    recipe = {
        "task": "classify_text",
        "data": {"train": str(path)},
        "model": str(tiny_encoder),
        "training": {"learning_rate": 1e30, "warmup": 0.0},
    }
    with pytest.raises(NonFiniteError, match=r"Lower training\.learning_rate"):
        migaki.train(recipe, tmp_path / "runs")
    (folder,) = list_runs(tmp_path / "runs")
    state = folder.state()
    assert state["state"] == "failed"
    assert "Lower training.learning_rate" in state["reason"]
    assert not (folder.path / "MANIFEST.json").exists()
    assert not (folder.path / "model").exists()
    rows = lines(folder.path / "failed_batch.jsonl")
    assert len(rows) == 16
    assert all(row["place"].startswith(f"{path}:") for row in rows)
    run = migaki.load(1, tmp_path / "runs")
    for use in (run.evaluate, lambda: run.predict(["a"]), lambda: run.metrics, run.summary):
        with pytest.raises(UsageError, match=f"Run {folder.id} is failed, so it has no model to use"):
            use()


def test_a_run_that_is_not_there_lists_those_that_are(finished_runs):
    with pytest.raises(RunNotFoundError, match=r"0001-classify_text-lora, 0002-generate-full, 0003-generate-lora"):
        migaki.load(9, finished_runs / "runs")


def test_a_damaged_run_does_not_keep_others_from_being_trained(copied, tiny_encoder):
    (copied / "0001-classify_text-lora" / "state.json").write_text("{")
    (copied / "0002-generate-full" / "state.json").write_text('{"state": "stopped"}')
    (copied / "0002-generate-full" / "recipe.yaml").unlink()
    recipe = {
        "task": "classify_text",
        "data": {"train": labelled_rows()},
        "model": str(tiny_encoder),
        "training": {"max_steps": 1},
    }
    assert migaki.train(recipe, copied).id == "0004-classify_text-lora"
