"""C17: the label map depends on the labels alone, and is stored with the model."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import migaki
from learners import METHODS, base_from, task_of
from migaki.core.errors import DataError
from processes import finish, lines, start
from tiny import labelled_rows, write_rows

PREPARE = """
import hashlib
import sys
from pathlib import Path

from learners import METHODS, base_from, task_of
from migaki.data import Data

rows, encoder, out = map(Path, sys.argv[1:])
task = task_of("classify_text", class_weights="balanced")
splits = Data(train=str(rows)).load(task.content_kind, seed=0)
for name, method in METHODS.items():
    learner = method.prepare(base_from(encoder, task.base_role), task, splits.train, seed=0)
    learner.encode(splits.train)
    (out / name).mkdir(parents=True)
    learner.save(out / name)
    print(name, (out / name / "task.json").read_bytes().hex())
"""


def rows_with_awkward_labels(n: int) -> list[dict[str, str]]:
    """Labels whose order differs by case, script, digits and blanks."""
    names = {"billing": "請求", "delivery": "Delivery 10", "technical": "delivery 9"}
    return [row | {"label": names[row["label"]]} for row in labelled_rows(n)]


def test_three_hash_seeds_and_three_orders_of_the_file_give_one_label_map(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = rows_with_awkward_labels(60)
    processes = []
    for seed in (0, 1, 12345):
        if seed:
            random.Random(seed).shuffle(rows)
        path = write_rows(tmp_path / f"rows-{seed}.jsonl", rows)
        processes.append(start(PREPARE, path, tiny_encoder, tmp_path / str(seed), PYTHONHASHSEED=str(seed)))
    first, second, third = (lines(out) for out in finish(*processes))
    assert [line.split()[0] for line in first] == list(METHODS)
    assert first == second == third
    stored = json.loads(bytes.fromhex(first[0].split()[1]))
    # Sorted by code point: capitals before small letters, Latin before kanji.
    assert stored["labels"] == ["Delivery 10", "delivery 9", "請求"]


@pytest.mark.parametrize("method", METHODS)
def test_a_reloaded_model_answers_with_the_map_it_was_saved_with(
    method: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    """The data of the recipe may have changed since: the map is the model's, not the data's."""
    path = write_rows(tmp_path / "rows.jsonl", rows_with_awkward_labels(60))
    recipe = {
        "task": "classify_text",
        "method": method,
        "model": str(tiny_encoder),
        "data": {"train": str(path)},
        "training": {"max_steps": 1},
    }
    run = migaki.train(recipe, runs=tmp_path / "runs")
    stored = json.loads((run.path / "model" / "task.json").read_text(encoding="utf-8"))["labels"]
    assert stored == ["Delivery 10", "delivery 9", "請求"]
    before = [p.output for p in run.predict([row["text"] for row in labelled_rows(12)])]
    path.write_text(path.read_text(encoding="utf-8").replace("請求", "AAA"), encoding="utf-8")
    again = migaki.load(run.id, tmp_path / "runs")
    assert again.learner.labels == ("Delivery 10", "delivery 9", "請求")
    assert [p.output for p in again.predict([row["text"] for row in labelled_rows(12)])] == before


@pytest.mark.parametrize("method", METHODS)
def test_the_saved_order_is_used_even_where_it_is_not_the_sorted_one(
    method: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    """A map that is rebuilt on loading would undo this exchange."""
    from learners import labelled, prepared

    rows, task = labelled(12), task_of("classify_text")
    learner = prepared(tiny_encoder, task, method, rows)
    learner.evaluation_mode()
    wanted = [p.output for p in learner.predict(rows.rows)]
    learner.save(tmp_path)
    state = json.loads((tmp_path / "task.json").read_text(encoding="utf-8"))
    state["labels"] = list(reversed(state["labels"]))
    (tmp_path / "task.json").write_text(json.dumps(state), encoding="utf-8")
    folder = tiny_encoder if METHODS[method].keeps_base else tmp_path
    again = METHODS[method].restore(base_from(folder, "encoder"), task, tmp_path)
    again.evaluation_mode()
    swap = dict(zip(learner.labels, reversed(learner.labels), strict=True))
    assert [p.output for p in again.predict(rows.rows)] == [swap[label] for label in wanted]


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("method", METHODS)
def test_a_label_that_train_does_not_know_names_its_rows(
    method: str, split: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    rows = labelled_rows(30)
    other = [*labelled_rows(40)[30:35], {"text": "where is my refund", "label": "refund"}]
    recipe = {
        "task": "classify_text",
        "method": method,
        "model": str(tiny_encoder),
        "data": {
            "train": str(write_rows(tmp_path / "train.jsonl", rows)),
            split: str(write_rows(tmp_path / f"{split}.jsonl", other)),
        },
    }
    with pytest.raises(DataError) as error:
        migaki.train(recipe, runs=tmp_path / "runs")
    assert f"1 {split} rows have labels that no train row has: 'refund'" in str(error.value)
    assert f"{split}.jsonl:6" in str(error.value)
    assert not (tmp_path / "runs").exists()
