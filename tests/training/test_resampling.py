"""Labels evened out: how often each row is visited, and that nothing but (seed, epoch) decides it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from correctness.resuming import events, recipe_for, timeless, trained
from migaki.core.errors import RecipeError
from migaki.recipe import Recipe
from migaki.training.monitor import Monitor
from migaki.training.resampling import quotas, resampled
from tiny import labelled_rows

LABELS = ["a"] * 12 + ["b"] * 3 + ["c"]
counts = st.lists(st.integers(1, 40), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("evenness", "wanted"),
    [
        (0.0, [12, 3, 1]),
        # 16 / 3 = 5.33 rows of each; the one that is left over goes to the first.
        (1.0, [6, 5, 5]),
        # Square roots 3.46, 1.73, 1 of 6.20: 8.94, 4.47, 2.58 rows; the two largest remainders are rounded up.
        (0.5, [9, 4, 3]),
    ],
)
def test_how_often_labels_are_visited_is_worked_out_by_hand(evenness: float, wanted: list[int]) -> None:
    assert quotas(np.array([12, 3, 1]), evenness).tolist() == wanted
    drawn = Counter(LABELS[i] for i in resampled(LABELS, evenness, 0, 0))
    assert [drawn[label] for label in "abc"] == wanted


@given(counts, st.floats(0, 1))
def test_an_epoch_has_as_many_rows_as_before_and_every_label_in_it(n_of_label: list[int], evenness: float) -> None:
    found = quotas(np.array(n_of_label), evenness)
    assert found.sum() == sum(n_of_label)
    assert found.min() >= 1
    # A label with more rows is never visited less often, up to the rounding of one row.
    ordered = found[np.argsort(n_of_label, kind="stable")]
    assert (np.diff(ordered) >= -1).all()


@given(counts, st.floats(0, 1), st.integers(0, 3))
def test_rows_of_one_label_come_in_turn_over_the_epochs(n_of_label: list[int], evenness: float, seed: int) -> None:
    labels = [str(c) for c, n in enumerate(n_of_label) for _ in range(n)]
    times = np.zeros(len(labels), dtype=int)
    for epoch in range(5):
        times += np.bincount(resampled(labels, evenness, seed, epoch), minlength=len(labels))
        for label in set(labels):
            of_label = times[np.array(labels) == label]
            assert of_label.max() - of_label.min() <= 1


def test_nothing_but_seed_and_epoch_decides_and_evenness_zero_visits_each_row_once() -> None:
    draws = [resampled(LABELS, 1.0, seed, epoch).tolist() for seed, epoch in ((0, 0), (0, 0), (1, 0), (0, 1))]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    assert draws[0] != draws[3]
    assert sorted(resampled(LABELS, 0.0, 0, 3).tolist()) == list(range(16))


def lopsided_recipe(folder: Path, model: Path, **training: object) -> dict[str, object]:
    recipe = recipe_for("classify_text", folder, model, "full", **training)
    rows = [row for i, row in enumerate(labelled_rows(60)) if i % 3 == 0 or i % 12 == 1]
    return {**recipe, "data": {"train": rows}}


def test_a_stopped_training_goes_on_with_the_rows_that_would_have_followed(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))
    recipe = lopsided_recipe(tmp_path, tiny_encoder, resample=1.0)
    whole = trained(recipe, tmp_path / "whole")
    steps = events(whole, "step")
    per_epoch = len(steps) // 3
    broken = trained(recipe, tmp_path / "broken", stops=(2, per_epoch + 1))
    assert timeless(events(broken, "step")) == timeless(steps)
    n_rows = sum(step["rows"] for step in steps[:per_epoch])
    seen = [i for step in steps[:per_epoch] for i in step["samples"]]
    assert len(set(seen)) < len(seen) == n_rows


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"task": {"kind": "classify_text", "class_weights": "balanced"}}, "both make up for rare labels"),
        ({"task": "generate"}, "rows of generate have not one each"),
    ],
)
def test_what_resampling_cannot_do_is_refused_in_the_recipe(changed: dict[str, object], words: str) -> None:
    settings = {"task": "classify_text", "data": {"train": "a.csv"}, "training": {"resample": 1.0}}
    with pytest.raises(RecipeError, match=rf"training.*{words}"):
        Recipe.from_mapping(settings | changed)


def test_a_method_without_steps_says_that_the_settings_change_nothing(tmp_path: Path) -> None:
    from migaki.pipeline import train

    heard: list[str] = []

    class Listener(Monitor):
        def note(self, message: str) -> None:
            heard.append(message)

    recipe = {
        "task": {"kind": "classify_text", "focal_gamma": 2.0},
        "data": {"train": labelled_rows(40)},
        "method": "tfidf",
        "training": {"resample": 0.5},
    }
    train(recipe, tmp_path, Listener())
    for name in ("training.resample", "task.focal_gamma"):
        assert f"warning: {name} changes nothing: tfidf takes no steps" in heard
