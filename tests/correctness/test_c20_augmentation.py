"""C20: what is hidden in a row is drawn anew for every epoch and row, and follows from nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from correctness.resuming import recipe_for, trained
from learners import prepared, task_of
from migaki.core.errors import RecipeError
from migaki.core.parts import Example
from migaki.core.seeds import generator
from migaki.core.store import RunFolder
from migaki.core.types import Dataset, Labelled, Place, Row
from migaki.methods import Full
from migaki.training import Training
from migaki.training.loop import Judge, fit

N_ROWS, SHARE = 13, 0.3


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))


def long_rows() -> Dataset:
    """One text thirteen times: two rows with the same mask could not be told apart from a mask that repeats."""
    text = "the order has not arrived please send the invoice again my screen is black how do I reset my password"
    return Dataset("train", tuple(Row(Place("a", i + 1), Labelled(text, "xyz"[i % 3])) for i in range(N_ROWS)))


def seen(
    encoder: Path, folder: Path, batch_size: int, accumulate: int = 1, seed: int = 0
) -> dict[tuple[int, int], tuple[int, ...]]:
    """Ids by (epoch, row) as the loss gets them."""
    rows = long_rows()
    learner: Any = prepared(encoder, task_of("classify_text", head="random"), Full(), rows)
    found: dict[tuple[int, int], tuple[int, ...]] = {}
    loss = learner.loss

    def watched(examples: list[Example], smoothing: float) -> Any:
        done = sum(len(event["samples"]) for event in steps())
        for example in examples:
            place = (done // N_ROWS, example.row.place.line - 1)
            assert place not in found
            found[place] = example.ids
        return loss(examples, smoothing)

    learner.loss = watched
    run = RunFolder.create(folder, "masks", {})

    def steps() -> list[dict[str, Any]]:
        path = run.path / "history.jsonl"
        return [e for line in path.read_text().splitlines() if (e := json.loads(line))["event"] == "step"]

    training = Training(epochs=3, batch_size=batch_size, accumulate=accumulate, mask_tokens=SHARE)
    judge = Judge(lambda predictions: {"loss": 1.0}, "loss", "min")
    fit(learner, training, learner.encode(rows), rows.rows[:1], judge, run, learning_rate=1e-3, seed=seed)
    run.unlock()
    assert sorted(found) == [(epoch, row) for epoch in range(3) for row in range(N_ROWS)]
    return found


def test_no_two_epochs_and_no_two_rows_hide_the_same(tiny_encoder: Path, tmp_path: Path) -> None:
    found = seen(tiny_encoder, tmp_path, batch_size=4)
    # A text of about 20 tokens: 39 masks of 2^20 possible ones are all different unless something repeats.
    assert len(set(found.values())) == 3 * N_ROWS


def test_what_is_hidden_does_not_depend_on_which_rows_are_computed_together(tiny_encoder: Path, tmp_path: Path) -> None:
    wanted = seen(tiny_encoder, tmp_path, batch_size=4)
    assert seen(tiny_encoder, tmp_path, batch_size=5) == wanted
    assert seen(tiny_encoder, tmp_path, batch_size=13, accumulate=4) == wanted
    assert seen(tiny_encoder, tmp_path, batch_size=4, seed=1) != wanted


def test_about_the_share_is_hidden_and_never_the_frame_of_the_text(tiny_encoder: Path) -> None:
    rows = long_rows()
    learner: Any = prepared(tiny_encoder, task_of("classify_text", head="random"), Full(), rows)
    example, mask = learner.encode(rows)[0], learner.network.mask_id()
    drawn = [learner.altered(example, SHARE, generator(0, "mask", epoch, 0)) for epoch in range(300)]
    inner = len(example) - 2
    assert all((e.ids[0], e.ids[-1]) == (example.ids[0], example.ids[-1]) for e in drawn)
    assert all(new in (old, mask) for e in drawn for new, old in zip(e.ids, example.ids, strict=True))
    hidden = sum(e.ids.count(mask) for e in drawn)
    # 5400 draws of 0.3: one in a thousand lies further out than 3.3 standard deviations of 0.0062.
    assert hidden / (300 * inner) == pytest.approx(SHARE, abs=0.021)
    assert (example.ids, example.labels) == (learner.encode(rows)[0].ids, drawn[0].labels)


def test_after_a_stop_the_same_tokens_are_hidden(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from migaki.methods.tuned import TunedLearner

    recipe = recipe_for("classify_text", tmp_path, tiny_encoder, "full", mask_tokens=SHARE, epochs=2)
    calls: list[tuple[int, tuple[int, ...]]] = []
    plain = TunedLearner.altered

    def watched(self: TunedLearner, example: Example, *rest: Any) -> Example:
        found = plain(self, example, *rest)
        calls.append((example.row.place.line, found.ids))
        return found

    monkeypatch.setattr(TunedLearner, "altered", watched)
    trained(recipe, tmp_path / "whole")
    wanted = list(calls)
    calls.clear()
    trained(recipe, tmp_path / "broken", stops=(3, 5))
    assert calls == wanted
    assert len(set(wanted)) > len(wanted) / 2


def test_a_decoder_has_no_token_to_hide_behind(tiny_decoder: Path, tmp_path: Path) -> None:
    import migaki

    recipe = recipe_for("generate", tmp_path, tiny_decoder, "lora", mask_tokens=SHARE)
    with pytest.raises(RecipeError, match=r"training\.mask_tokens"):
        migaki.train(recipe, runs=tmp_path / "runs")
