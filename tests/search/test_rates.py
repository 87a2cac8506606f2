"""The range test of learning rates: what it sees, what it suggests, what it leaves alone."""

from __future__ import annotations

import json

import pytest

from migaki.cli import main
from migaki.core.errors import RecipeError
from migaki.recipe import Recipe
from migaki.search.rates import range_test, smoothed, suggested
from tiny import labelled_rows, write_rows


def recipe(encoder, **settings) -> Recipe:
    return Recipe(
        **{
            "task": {"kind": "classify_text", "head": "random"},
            "model": str(encoder),
            "data": {"train": labelled_rows(120)},
            "method": {"kind": "lora", "rank": 4},
            "training": {"batch_size": 8},
        }
        | settings
    )


def test_the_smoothed_loss_has_no_memory_of_zero():
    # (0.1 * 1 * 0.9 + 0.1 * 3) / (1 - 0.9^2) = 0.39 / 0.19
    assert smoothed([1.0, 3.0]) == pytest.approx([1.0, 0.39 / 0.19])


def test_the_sweep_begins_far_below_the_usual_rate_and_ends_where_the_loss_has_grown(tiny_encoder, tmp_path):
    found = range_test(recipe(tiny_encoder), tmp_path, steps=80)
    assert found.rates[0] == pytest.approx(2e-4 * 1e-3)
    assert all(a < b for a, b in zip(found.rates, found.rates[1:], strict=False))
    assert len(found.rates) == len(found.changes) == len(found.smoothed)
    assert found.rates[0] < found.suggestion < found.least
    if found.diverges:
        assert found.diverges > found.least
    assert list(tmp_path.iterdir()) == []


def test_the_same_recipe_sees_the_same_losses(tiny_encoder, tmp_path):
    first, second = (range_test(recipe(tiny_encoder), tmp_path, steps=20) for _ in range(2))
    assert first == second


def test_a_method_without_steps_has_no_rate(tiny_encoder, tmp_path):
    with pytest.raises(RecipeError, match="probe takes no steps"):
        range_test(recipe(tiny_encoder, method="probe", task="classify_text"), tmp_path)


def test_rates_ends_with_one_json_object(tiny_encoder, tmp_path, capsys):
    write_rows(tmp_path / "rows.jsonl", labelled_rows(60))
    (tmp_path / "r.yaml").write_text(
        f"task: classify_text\ndata: {{train: rows.jsonl}}\nmodel: {tiny_encoder}\nmethod: {{kind: lora, rank: [2, 4]}}\n"
    )
    assert main(["rates", str(tmp_path / "r.yaml"), "--steps", "20", "--runs", str(tmp_path), "--json"]) == 0
    out = capsys.readouterr().out
    said = json.loads(out.splitlines()[-1])
    assert set(said) == {"suggestion", "least", "diverges", "rates", "changes", "smoothed", "usual"}
    assert f"suggested: training.learning_rate: {said['suggestion']:g}" in out
    assert said["usual"] == 2e-4


def test_the_suggestion_follows_from_the_curve():
    rates, smooth = [1e-4, 1e-3, 1e-2, 1e-1], [0.0, -0.2, -0.5, 0.2]  # against the untrained model
    least, suggestion, diverges = suggested(rates, smooth)
    assert (least, diverges) == (1e-2, 1e-1)
    assert suggestion < least
