"""C23: nothing that trains or chooses sees the test split."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from safetensors.torch import load_file

import migaki
from learners import CASES
from migaki.core.parts import Method
from migaki.core.types import Dataset, Splits
from migaki.methods import all_methods
from migaki.training import loop
from tiny import chat_rows, labelled_rows, write_rows

_opened: list[str] | None = None


def _log_opening(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open":
        _opened.append(str(arguments[0]))


@contextmanager
def files_opened() -> Iterator[list[str]]:
    """Every path that this process opens meanwhile, as the interpreter's audit events tell it."""
    global _opened
    if not getattr(sys, "_migaki_tests_log_opening", False):
        # A hook cannot be taken away again, so there is one for all tests, and it sleeps between them.
        sys.addaudithook(_log_opening)
        sys._migaki_tests_log_opening = True  # type: ignore[attr-defined]
    found: list[str] = []
    _opened = found
    try:
        yield found
    finally:
        _opened = None


def recipe(kind: str, method: str, model: Path, folder: Path, test: list[dict[str, str]]) -> dict[str, Any]:
    rows = labelled_rows(36) if kind == "classify_text" else chat_rows(24)
    return {
        "task": {"kind": kind} | ({"head": "random"} if kind == "classify_text" else {"generated_rows": 0}),
        "method": method,
        "model": str(model),
        "data": {
            "train": str(write_rows(folder / "train.jsonl", rows[:-6])),
            "valid": str(write_rows(folder / "valid.jsonl", rows[-6:])),
            "test": str(write_rows(folder / "held_out.jsonl", test)),
        },
        "training": {"epochs": 2, "batch_size": 8, "learning_rate": 0.01},
    }


def rows_to_test(kind: str, number: int) -> list[dict[str, str]]:
    start = 36 + 6 * number
    return (labelled_rows if kind == "classify_text" else chat_rows)(start + 6)[start:]


def test_fit_has_no_place_for_a_test_split() -> None:
    parameters = inspect.signature(loop.fit).parameters
    assert not [name for name in parameters if "test" in name or "split" in name]
    hints = get_type_hints(loop.fit)
    assert not [name for name, hint in hints.items() if Splits.__name__ in str(hint)]


@pytest.mark.parametrize("method", all_methods())
def test_a_method_is_prepared_from_the_train_rows_alone(method: type[Method]) -> None:
    """The labels and the class means of a head come from here."""
    hints = get_type_hints(method.prepare, vars(sys.modules["learners"]))
    assert [name for name, hint in hints.items() if hint is Dataset] == ["train"]
    assert Splits not in hints.values()


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_the_test_file_is_neither_opened_nor_shown_while_fit_runs(
    kind: str, method: str, tiny_encoder: Path, tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, opened, seen = loop.fit, [], set()

    def watched(learner: Any, training: Any, train: Any, valid: Any, judge: Any, run: Any, **settings: Any) -> Any:
        assert {example.row.place.source for example in train} == {str(tmp_path / "train.jsonl")}
        predict, loss = learner.predict, learner.loss

        def noted_predict(rows: Any, **how: Any) -> Any:
            seen.update(row.place.source for row in rows)
            return predict(rows, **how)

        def noted_loss(examples: Any, label_smoothing: float) -> Any:
            seen.update(example.row.place.source for example in examples)
            return loss(examples, label_smoothing)

        learner.predict, learner.loss = noted_predict, noted_loss
        with files_opened() as paths:
            history = fit(learner, training, train, valid, judge, run, **settings)
        del learner.predict, learner.loss
        opened.extend(paths)
        return history

    monkeypatch.setattr(loop, "fit", watched)
    model = tiny_encoder if kind == "classify_text" else tiny_decoder
    run = migaki.train(recipe(kind, method, model, tmp_path, rows_to_test(kind, 1)), runs=tmp_path / "runs")
    assert any("history.jsonl" in path for path in opened), "the log of file access is empty"
    assert not [path for path in opened if "held_out" in path]
    assert seen == {str(tmp_path / "train.jsonl"), str(tmp_path / "valid.jsonl")}
    assert run.state == "finished"


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_other_test_rows_change_the_figures_and_not_the_model(
    kind: str, method: str, tiny_encoder: Path, tiny_decoder: Path, tmp_path: Path
) -> None:
    runs = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        model = tiny_encoder if kind == "classify_text" else tiny_decoder
        settings = recipe(kind, method, model, folder, rows_to_test(kind, number))
        runs.append(migaki.train(settings, runs=folder / "runs"))
    first, second = runs
    assert first.metrics["loss"].value != second.metrics["loss"].value
    files = sorted(path.name for path in (first.path / "model").glob("*.safetensors"))
    assert files
    for name in files:
        one, other = load_file(first.path / "model" / name), load_file(second.path / "model" / name)
        assert one.keys() == other.keys()
        assert all(bool((one[key] == other[key]).all()) for key in one), name
    logs = [
        [
            {key: value for key, value in json.loads(line).items() if key != "seconds"}
            for line in (run.path / "history.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for run in runs
    ]
    assert logs[0] == logs[1]
