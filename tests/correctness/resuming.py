"""Trainings that are stopped by a signal in the middle and given the same command again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import migaki
from migaki.core.errors import StoppedError
from migaki.run import Run
from migaki.training.monitor import Monitor
from tiny import chat_rows, labelled_rows, write_rows


class StopAt(Monitor):
    """Sends this process a SIGTERM at a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def step(self, facts: Any) -> None:
        if facts["step"] == self._step:
            os.kill(os.getpid(), signal.SIGTERM)


def recipe_for(kind: str, folder: Path, model: Path, method: Any, **training: Any) -> dict[str, Any]:
    """Rows are written into the folder; three epochs of four steps and a smaller one, everything random switched on."""
    if kind == "classify_text":
        write_rows(folder / "rows.jsonl", labelled_rows(26))
        task: dict[str, Any] = {"kind": kind, "head": "random"}
    else:
        write_rows(folder / "rows.jsonl", chat_rows(26))
        task = {"kind": kind, "max_new_tokens": 4, "generated_rows": 2}
    return {
        "task": task,
        "model": str(model),
        "data": {"train": str(folder / "rows.jsonl")},
        "method": method,
        "training": {"epochs": 3, "batch_size": 5, "learning_rate": 3e-3, "dropout": 0.2, **training},
    }


def trained(recipe: dict[str, Any], runs: Path, stops: Sequence[int] = ()) -> Run:
    """To the end, with a stop at each of these steps and a new start behind it."""
    for step in stops:
        with pytest.raises(StoppedError):
            migaki.train(recipe, runs=runs, monitor=StopAt(step))
    run = migaki.train(recipe, runs=runs)
    assert [path.name for path in runs.iterdir()] == [run.id]
    return run


def events(run: Run, kind: str) -> list[dict[str, Any]]:
    lines = (run.path / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == kind]


def timeless(value: Any) -> Any:
    """Without times and memory, and without a run's own name."""
    if isinstance(value, dict):
        hidden = ("seconds", "train_seconds", "peak_bytes", "latency_p50_s", "latency_p95_s", "run")
        return {key: timeless(item) for key, item in value.items() if key not in hidden}
    return [timeless(item) for item in value] if isinstance(value, list) else value
