"""C11: after a stop at any step exactly the rows follow that would have followed, each seen once an epoch."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from correctness.resuming import events, recipe_for, timeless, trained
from migaki.training.checkpoint import checkpoint_folders

CASES = [
    pytest.param("classify_text", "full", {}, id="dropout"),
    pytest.param("classify_text", {"kind": "lora", "rank": 2, "dropout": 0.3}, {"mask_tokens": 0.3}, id="masks"),
    pytest.param("classify_text", {"kind": "frozen", "blocks": 1}, {}, id="kept activations"),
    pytest.param("generate", {"kind": "lora", "rank": 2}, {"accumulate": 2}, id="packed"),
]


@pytest.mark.parametrize(("kind", "method", "training"), CASES)
def test_the_log_of_samples_is_the_uninterrupted_one(
    kind: str,
    method: object,
    training: dict[str, object],
    tiny_encoder: Path,
    tiny_decoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped in the middle of an epoch, at its end, and two steps behind a stop."""
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))
    model = tiny_encoder if kind == "classify_text" else tiny_decoder
    recipe = recipe_for(kind, tmp_path, model, method, **training)
    whole = trained(recipe, tmp_path / "whole")
    steps = events(whole, "step")
    per_epoch = len(steps) // 3
    broken = trained(recipe, tmp_path / "broken", stops=(2, per_epoch, per_epoch + 2))
    assert [event["samples"] for event in events(broken, "step")] == [event["samples"] for event in steps]
    # Random numbers too: loss and gradient of every step follow from masks, dropout and the weights so far.
    assert timeless(events(broken, "step")) == timeless(steps)
    n_rows = max(max(event["samples"]) for event in steps) + 1
    for epoch in range(3):
        seen = [i for event in steps[epoch * per_epoch : (epoch + 1) * per_epoch] for i in event["samples"]]
        assert sorted(seen) == list(range(n_rows))
    ends = [checkpoint_folders(run.path / "checkpoints")[0] for run in (whole, broken)]
    assert ends[0].name == ends[1].name
    for name in ("weights.safetensors", "optimizer.safetensors"):
        one, other = (load_file(end / name) for end in ends)
        assert one.keys() == other.keys()
        assert all(bool((one[key] == other[key]).all()) for key in one)
