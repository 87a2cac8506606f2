"""Rows that are handed over as a list stand in the run's recipe."""

from __future__ import annotations

import pytest

from migaki.core.errors import RecipeError
from migaki.pipeline import train
from tiny import labelled_rows


def test_rows_too_many_for_a_recipe_are_refused_before_anything_is_trained(tiny_encoder, tmp_path):
    rows = [{**row, "note": "n" * 40_000} for row in labelled_rows(30)]
    recipe = {"task": "classify_text", "data": {"train": rows, "text": "text"}, "model": str(tiny_encoder)}
    with pytest.raises(RecipeError, match="Rows belong into a data file"):
        train(recipe, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
