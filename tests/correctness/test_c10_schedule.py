"""C10: the learning rate of every step is the uninterrupted run's, and a changed number of steps is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from correctness.resuming import StopAt, events, recipe_for, trained
from migaki import train
from migaki.core.errors import StoppedError, UsageError
from migaki.training.schedules import rate_at


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_every_rate_is_the_same_after_two_stops(schedule: str, tiny_encoder: Path, tmp_path: Path) -> None:
    """Stopped during warm-up and behind it."""
    recipe = recipe_for("classify_text", tmp_path, tiny_encoder, "full", schedule=schedule, warmup=0.3, epochs=2)
    whole = events(trained(recipe, tmp_path / "whole"), "step")
    broken = events(trained(recipe, tmp_path / "broken", stops=(2, 6)), "step")
    rates = [event["learning_rate"] for event in broken]
    assert rates == [event["learning_rate"] for event in whole]
    assert [event["step"] for event in broken] == list(range(1, len(whole) + 1))
    # The schedule is a function of the step and nothing else; warm-up does not begin again.
    assert rates == [rate_at(step, len(whole), 3e-3, schedule, 0.3) for step in range(len(whole))]
    assert rates[0] < rates[1] < 3e-3
    assert schedule == "constant" or rates[-1] < rates[-2] < 3e-3


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"epochs": 4}, "training.epochs was 2 and is 4"),
        ({"max_steps": 6}, "training.max_steps was None and is 6"),
        ({"batch_size": 4}, "training.batch_size was 5 and is 4"),
        ({"warmup": 0.2}, "training.warmup was 0.3 and is 0.2"),
    ],
)
def test_a_changed_total_is_refused_and_named(
    changed: dict[str, float], named: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    settings = {"warmup": 0.3, "epochs": 2}
    recipe = recipe_for("classify_text", tmp_path, tiny_encoder, "full", **settings)
    with pytest.raises(StoppedError):
        train(recipe, runs=tmp_path / "runs", monitor=StopAt(2))
    other = recipe_for("classify_text", tmp_path, tiny_encoder, "full", **(settings | changed))
    with pytest.raises(UsageError) as error:
        train(other, runs=tmp_path / "runs", resume="1")
    assert named in str(error.value)
