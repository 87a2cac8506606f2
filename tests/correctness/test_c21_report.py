"""C21: what a run reports after stops is what it would have reported without them, times aside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from correctness.resuming import events, recipe_for, timeless, trained

CASES = [
    pytest.param("classify_text", "full", {"evaluations_per_epoch": 2}, id="full"),
    pytest.param("generate", {"kind": "lora", "rank": 2}, {"early_stopping": 2, "checkpoint_steps": 1}, id="lora"),
    # Stopped before anything better than the untrained model was found.
    pytest.param("classify_text", "lora", {"learning_rate": 1e-9}, id="nothing learned"),
]


@pytest.mark.parametrize(("kind", "method", "training"), CASES)
def test_the_final_report_is_the_one_of_a_run_that_was_never_stopped(
    kind: str,
    method: object,
    training: dict[str, object],
    tiny_encoder: Path,
    tiny_decoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))
    model = tiny_encoder if kind == "classify_text" else tiny_decoder
    recipe = recipe_for(kind, tmp_path, model, method, **training)
    whole, broken = trained(recipe, tmp_path / "whole"), trained(recipe, tmp_path / "broken", stops=(3, 4, 7))
    for name in ("evaluation.json", "data.json"):
        one, other = (json.loads((run.path / name).read_text(encoding="utf-8")) for run in (whole, broken))
        assert timeless(one) == timeless(other)
    predictions = [(run.path / "predictions.jsonl").read_bytes() for run in (whole, broken)]
    assert predictions[0] == predictions[1]
    for kind_of_event in ("start", "step", "evaluation", "stop"):
        assert timeless(events(broken, kind_of_event)) == timeless(events(whole, kind_of_event))
    assert timeless(broken.summary()) == timeless({**whole.summary(), "folder": str(broken.path)})


def test_seconds_are_counted_over_all_lives_of_a_run(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step and evaluation that is in the log is in the sum, and nothing else."""
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))
    run = trained(recipe_for("classify_text", tmp_path, tiny_encoder, "lora"), tmp_path / "runs", stops=(3, 7))
    logged = sum(event["seconds"] for kind in ("step", "evaluation") for event in events(run, kind))
    assert run.summary()["train_seconds"] == pytest.approx(logged)
