"""Which run a training command goes on with: said, never guessed, and a finished one is never touched."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import migaki
from migaki.core.errors import LockedError, NonFiniteError, StoppedError, UsageError
from migaki.core.store import RunFolder, list_runs
from migaki.training.monitor import Monitor
from migaki.unfinished import open_or_create
from tiny import labelled_rows, save_encoder, write_rows


class Watching(Monitor):
    """Keeps what is said; at step `stop_at` the process gets a SIGTERM."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.notes: list[str] = []
        self.steps: list[int] = []
        self.stop_at = stop_at

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, facts: Any) -> None:
        self.steps.append(facts["step"])
        if facts["step"] == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def said(self, text: str) -> list[str]:
        return [note for note in self.notes if text in note]


class Place:
    """A user's folder: a model, rows, and a recipe of six steps."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, folder / "runs"
        save_encoder(folder / "model")
        write_rows(folder / "rows.jsonl", labelled_rows(30))
        self.recipe: dict[str, Any] = {
            "task": {"kind": "classify_text", "head": "random"},
            "model": str(folder / "model"),
            "data": {"train": str(folder / "rows.jsonl")},
            "method": {"kind": "lora", "rank": 2},
            "training": {"epochs": 2, "batch_size": 8},
        }

    def train(self, stop_at: int | None = None, recipe: dict[str, Any] | None = None, **how: Any) -> Watching:
        monitor = Watching(stop_at)
        if stop_at is None:
            migaki.train(recipe or self.recipe, runs=self.runs, monitor=monitor, **how)
        else:
            with pytest.raises(StoppedError):
                migaki.train(recipe or self.recipe, runs=self.runs, monitor=monitor, **how)
        return monitor

    def states(self) -> list[str]:
        return [str(run.state()["state"]) for run in list_runs(self.runs)]

    def changed(self, **training: Any) -> dict[str, Any]:
        return {**self.recipe, "training": {**self.recipe["training"], **training}}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))
    return Place(tmp_path)


def hashes(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_command_goes_on_and_says_so_and_a_finished_run_is_never_touched(place: Place) -> None:
    first = place.train(stop_at=2)
    assert first.steps == [1, 2]
    assert place.states() == ["stopped"]
    second = place.train()
    assert second.steps == [3, 4, 5, 6]
    (said,) = second.said("going on with")
    assert said == "going on with run 0001-classify_text-lora, which was stopped; --new starts afresh"
    assert place.states() == ["finished"]
    before = hashes(place.runs)
    third = place.train()
    assert third.steps == [1, 2, 3, 4, 5, 6]
    assert third.said("going on") == []
    assert place.states() == ["finished", "finished"]
    after = hashes(place.runs)
    assert {name: after[name] for name in before} == before


def test_new_starts_afresh_and_leaves_the_unfinished_one(place: Place) -> None:
    place.train(stop_at=2)
    before = hashes(place.runs)
    fresh = place.train(new=True)
    assert fresh.steps == [1, 2, 3, 4, 5, 6]
    assert place.states() == ["stopped", "finished"]
    assert before.items() <= hashes(place.runs).items()


def test_the_newest_of_several_is_gone_on_with_unless_one_is_named(place: Place) -> None:
    place.train(stop_at=2)
    place.train(stop_at=3, new=True)
    assert place.train(stop_at=5).steps == [4, 5]
    assert place.states() == ["stopped", "stopped"]
    assert place.train(resume="1").steps == [3, 4, 5, 6]
    assert place.states() == ["finished", "stopped"]


def test_another_recipe_is_another_run(place: Place) -> None:
    place.train(stop_at=2)
    other = place.train(recipe=place.changed(epochs=1))
    assert other.steps == [1, 2, 3]
    assert other.said("unfinished but stays so") == []
    assert place.states() == ["stopped", "finished"]


def test_resume_of_a_finished_run_is_refused(place: Place) -> None:
    place.train()
    before = hashes(place.runs)
    with pytest.raises(UsageError, match="0001-classify_text-lora is finished"):
        place.train(resume="0001-classify_text-lora")
    assert hashes(place.runs) == before


def test_resume_and_new_contradict_each_other(place: Place) -> None:
    with pytest.raises(UsageError, match="contradict"):
        place.train(resume="1", new=True)
    assert not place.runs.exists()


def other_rows(place: Place) -> None:
    rows = labelled_rows(30)
    rows[3]["text"] += " or not"
    write_rows(place.folder / "rows.jsonl", rows)


def other_model(place: Place) -> None:
    save_encoder(place.folder / "model", seed=1)


def other_rank(place: Place) -> None:
    place.recipe["method"]["rank"] = 3


def other_training(place: Place) -> None:
    place.recipe = place.changed(epochs=3, schedule="linear")


CHANGES = [
    pytest.param(other_rows, ["the rows of ", " are others now"], id="rows"),
    pytest.param(other_model, ["the weights of ", "model are others now"], id="model"),
    pytest.param(other_rank, ["method.rank was 2 and is 3"], id="method"),
    pytest.param(
        other_training, ["training.epochs was 2 and is 3", "training.schedule was 'cosine' and is 'linear'"], id="both"
    ),
]


@pytest.mark.parametrize(("change", "named"), CHANGES)
def test_resume_of_a_changed_run_is_refused_and_names_what_changed(
    change: Callable[[Place], None], named: list[str], place: Place
) -> None:
    place.train(stop_at=2)
    change(place)
    before = hashes(place.runs)
    with pytest.raises(UsageError, match="cannot be gone on with") as error:
        place.train(resume="1")
    assert all(name in str(error.value) for name in named)
    assert hashes(place.runs) == before
    assert place.states() == ["stopped"]


@pytest.mark.parametrize(("change", "named"), CHANGES[:2])
def test_a_run_of_the_same_recipe_over_other_rows_or_weights_stays_and_that_is_said(
    change: Callable[[Place], None], named: list[str], place: Place
) -> None:
    place.train(stop_at=2)
    change(place)
    second = place.train()
    assert second.steps == [1, 2, 3, 4, 5, 6]
    (said,) = second.said("run 0001-classify_text-lora is unfinished but stays so: ")
    assert all(name in said for name in named)
    assert place.states() == ["stopped", "finished"]


def test_a_recipe_that_names_every_default_is_the_same_work(place: Place) -> None:
    """Spelling is no difference, and what it was started with is compared all the same."""
    place.train(stop_at=2)
    place.recipe = {**place.changed(schedule="cosine", clip=1.0), "seed": 0}
    assert place.train(stop_at=4).steps == [3, 4]
    other_rows(place)
    assert place.train().steps == [1, 2, 3, 4, 5, 6]


def test_a_run_that_ended_in_nan_is_not_taken_up_but_other_failures_are(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from migaki.tasks.text_classifier import TextClassifier

    plain = TextClassifier.loss
    with monkeypatch.context() as patched:
        patched.setattr(TextClassifier, "loss", lambda self, *rest: plain(self, *rest) * float("nan"))
        # Both ways of computing are compared on this loss first, and NaN is not better than NaN.
        with pytest.raises(NonFiniteError):
            place.train()
    assert list_runs(place.runs)[0].state()["error"] == "NonFiniteError"
    with monkeypatch.context() as patched:

        def broken(self: Any, *rest: Any) -> Any:
            raise OSError("the cable was pulled")

        patched.setattr(TextClassifier, "loss", broken)
        with pytest.raises(OSError, match="cable"):
            place.train()
    assert place.states() == ["failed", "failed"]
    third = place.train()
    (said,) = third.said("going on with")
    assert "run 0002-classify_text-lora, which had failed" in said
    assert place.states() == ["failed", "finished"]


def test_a_run_that_a_process_is_writing_is_refused_with_its_number(place: Place) -> None:
    place.train(stop_at=2)
    (run,) = list_runs(place.runs)
    run.lock()
    run.set_state("running")
    before = (run.path / "history.jsonl").read_bytes()
    try:
        for how in ({}, {"resume": "1"}):
            with pytest.raises(LockedError, match=f"process {os.getpid()} on "):
                place.train(**how)
        assert (run.path / "history.jsonl").read_bytes() == before
        # It does not stand in the way of other work.
        assert place.train(new=True).steps == [1, 2, 3, 4, 5, 6]
    finally:
        run.unlock()
    # Once nobody writes it, it was interrupted.
    third = place.train()
    assert third.said("which was interrupted")
    assert third.steps == [3, 4, 5, 6]


FILES = {
    "recipe.yaml": "task: classify_text\ntraining: {epochs: 2}\n",
    "data.json": json.dumps({"splits": {"train": {"fingerprint": "a"}, "valid": {"fingerprint": "b"}}}),
    "environment.json": json.dumps({"model": {"reference": "m", "fingerprint": "c"}}),
}


def stopped(runs: Path, files: dict[str, str] = FILES) -> RunFolder:
    run = RunFolder.create(runs, "work", files)
    run.set_state("stopped")
    run.unlock()
    return run


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: (run / "state.json").write_text("{"),
        lambda run: (run / "state.json").write_text('["stopped"]'),
        lambda run: (run / "recipe.yaml").unlink(),
        lambda run: (run / "recipe.yaml").write_bytes(b"\xff\xfe"),
        lambda run: (run / "recipe.yaml").write_text("a: [1\n"),
        lambda run: (run / "data.json").write_text(""),
        lambda run: (run / "environment.json").unlink(),
    ],
)
def test_another_runs_damage_is_said_and_passed_over(damage: Callable[[Path], Any], tmp_path: Path) -> None:
    whole, broken = stopped(tmp_path), stopped(tmp_path)
    damage(broken.path)
    notes: list[str] = []
    found = open_or_create(tmp_path, "work", FILES, notes.append)
    found.unlock()
    assert found.path == whole.path
    assert notes[0].startswith(f"run {broken.id} is passed over, because it is damaged: ")


def test_what_differs_only_in_how_yaml_is_written_is_compared_by_rows_and_weights_too(tmp_path: Path) -> None:
    stopped(tmp_path, {**FILES, "recipe.yaml": "training:\n  epochs: 2\ntask: classify_text\n"})
    notes: list[str] = []
    others = {**FILES, "data.json": FILES["data.json"].replace('"b"', '"z"')}
    made = open_or_create(tmp_path, "work", others, notes.append)
    made.unlock()
    assert made.id == "0002-work"
    assert notes == ["run 0001-work is unfinished but stays so: the rows of valid are others now"]
    found = open_or_create(tmp_path, "work", FILES, notes.append)
    found.unlock()
    assert found.id == "0001-work"
