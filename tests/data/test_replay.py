"""Replayed rows: how many, which, and that none is judged by or carries a label that the task does not have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import migaki
from correctness.resuming import StopAt, events
from migaki.core.errors import DataError, RecipeError, StoppedError
from migaki.core.store import read_json
from migaki.data import Data
from migaki.data.replay import replay_rows
from migaki.recipe import Recipe
from tiny import chat_rows, labelled_rows, write_rows


def chats(first: int, n: int) -> list[dict[str, str]]:
    return chat_rows(first + n)[first:]


def replayed(rows: Any, share: float, seed: int = 0) -> Any:
    """Beside 30 train rows, 5 to validate and 5 to test."""
    data = Data(train=chats(0, 30), valid=chats(30, 5), test=chats(35, 5))
    return replay_rows(data, rows, share, data.load("conversation", 0), "conversation", seed)


def prompts(dataset: Any) -> list[str]:
    return [row.content.turns[0].content for row in dataset.rows]


@pytest.mark.parametrize(("share", "n"), [(0.25, 10), (0.1, 3), (0.5, 30), (0.001, 1)])
def test_so_many_rows_are_drawn_that_they_are_the_share_of_all(share: float, n: int) -> None:
    """n / (30 + n) = share, so n = 30 share / (1 - share); at least one."""
    found, findings = replayed(chats(100, 50), share)
    assert (found.name, len(found), findings) == ("replay", n, ())
    every = [row["prompt"] for row in chats(100, 50)]
    assert prompts(found) == [prompt for prompt in every if prompt in set(prompts(found))], "in the order of the file"
    assert prompts(found) == prompts(replayed(chats(100, 50), share)[0])
    if n == 10:
        assert prompts(found) != prompts(replayed(chats(100, 50), share, seed=1)[0])


def test_rows_by_which_is_judged_are_left_out_and_a_small_file_is_told() -> None:
    found, findings = replayed([*chats(33, 4), *chats(100, 2)], 0.25)
    assert prompts(found) == [row["prompt"] for row in chats(100, 2)]
    assert [str(finding) for finding in findings] == [
        "4 rows of training.replay also stand in valid or test and are left out.",
        "training.replay has 2 rows, a share of 0.062 and not 0.25 of what is trained on. Give 10 rows, or lower "
        "training.replay.share.",
    ]
    with pytest.raises(DataError, match="all 3 rows also stand in valid or test"):
        replayed(chats(31, 3), 0.25)


def test_a_classifier_takes_only_rows_with_its_labels(tmp_path: Path) -> None:
    data = Data(train=labelled_rows(40))
    splits = data.load("labelled", 0)
    rows = [{"text": f"a general text {i}", "label": "billing"} for i in range(5)]
    assert len(replay_rows(data, rows, 0.1, splits, "labelled", 0)[0]) == 3
    with pytest.raises(DataError) as error:
        replay_rows(data, [*rows, {"text": "the weather", "label": "general"}], 0.1, splits, "labelled", 0)
    assert "1 of 6 rows carry a label that no train row has" in str(error.value)
    assert "'general'" in str(error.value)
    assert "training.l2_sp" in str(error.value)
    with pytest.raises(DataError, match=r"^training\.replay\.rows: "):
        replay_rows(data, [{"text": "no label at all"}], 0.1, splits, "labelled", 0)


def test_the_file_is_looked_for_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "r.yaml"
    path.write_text("task: generate\ndata: {train: a.jsonl}\ntraining: {replay: {rows: ../general.jsonl}}\n")
    recipe = Recipe.from_file(path)
    assert recipe.training.replay is not None
    assert (recipe.training.replay.rows, recipe.training.replay.share) == (str(tmp_path / "general.jsonl"), 0.1)
    assert Recipe(**recipe.resolved()).resolved() == recipe.resolved()
    for wrong in (
        "{rows: ''}",
        "{rows: ~nobody-at-all/a.jsonl}",
        "{share: 0.1}",
        "{rows: a.jsonl, share: 1.0}",
        "general.jsonl",
    ):
        path.write_text(f"task: generate\ndata: {{train: a.jsonl}}\ntraining: {{replay: {wrong}}}\n")
        with pytest.raises(RecipeError, match=r"training\.replay"):
            Recipe.from_file(path)


def test_every_epoch_sees_the_replayed_rows_and_a_stopped_run_sees_the_same(tiny_decoder: Path, tmp_path: Path) -> None:
    """28 train rows (a tenth of 40 validates, a fifth tests) and 7 replayed ones: seven steps of five an epoch."""
    write_rows(tmp_path / "rows.jsonl", chats(0, 40))
    write_rows(tmp_path / "general.jsonl", chats(100, 20))
    recipe = {
        "task": {"kind": "generate", "max_new_tokens": 2, "generated_rows": 1},
        "data": {"train": str(tmp_path / "rows.jsonl")},
        "model": str(tiny_decoder),
        "method": {"kind": "lora", "rank": 2},
        "training": {
            "epochs": 2,
            "batch_size": 5,
            "learning_rate": 3e-3,
            "replay": {"rows": str(tmp_path / "general.jsonl"), "share": 0.2},
        },
    }
    whole = migaki.train(recipe, tmp_path / "whole")
    split = read_json(whole.path / "data.json")["splits"]["replay"]
    assert (split["rows"], split["source"]) == (7, str(tmp_path / "general.jsonl"))
    assert str(tmp_path / "general.jsonl") in (whole.path / "report.html").read_text(encoding="utf-8")
    steps = events(whole, "step")
    assert len(steps) == 14
    for epoch in (steps[:7], steps[7:]):
        assert sorted(number for step in epoch for number in step["samples"]) == list(range(35))
    with pytest.raises(StoppedError):
        migaki.train(recipe, tmp_path / "broken", monitor=StopAt(4))
    broken = migaki.train(recipe, tmp_path / "broken")
    assert [step["loss"] for step in events(broken, "step")] == [step["loss"] for step in steps]

    # With other rows to replay it is another run.
    with pytest.raises(StoppedError):
        migaki.train(recipe, tmp_path / "changed", monitor=StopAt(4))
    write_rows(tmp_path / "general.jsonl", chats(200, 20))
    with pytest.raises(migaki.MigakiError, match="the rows of replay are others now"):
        migaki.train(recipe, tmp_path / "changed", resume="1")
    assert json.loads((tmp_path / "changed" / "0001-generate-lora" / "state.json").read_text())["state"] == "stopped"
