"""What is kept below the cut: exact, under a key that knows what it depends on, and only where it pays."""

# Shapes: T tokens of a row, D hidden

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learners import labelled, prepared, task_of
from migaki.core.cache import Cache
from migaki.methods import Frozen
from migaki.tasks.body import Body
from migaki.training import activations
from migaki.training.activations import Activations, activations_of

D = 3
ROWS = ((5, 6, 7), (8,), (9, 10), (8,), (5, 6, 7, 8))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path))
    return tmp_path


def vectors(row: Sequence[int]) -> np.ndarray:
    """A vector for each token that tells token, place and row length apart."""
    return np.array([[token, at + 0.5, len(row) / 7] for at, token in enumerate(row)], dtype=np.float32)


class Kept:
    """Asks for activations of rows, and remembers what was said and how often they were computed."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.computed = 0

    def ask(self, rows: Any = ROWS, made_by: Sequence[str] = ("weights", "1"), passes: int = 2) -> Activations | None:
        def compute() -> Iterator[tuple[Sequence[int], list[np.ndarray]]]:
            self.computed += 1
            # Groups come in any order.
            for group in ([2, 0], [4, 3, 1]):
                there = [i for i in group if i < len(rows)]
                yield there, [vectors(rows[i]) for i in there]

        return activations_of(rows, made_by, D, compute, passes=passes, note=self.notes.append)


def test_every_row_is_found_bitwise_by_its_tokens_and_no_other() -> None:
    kept = Kept().ask()
    assert kept is not None
    for row in ROWS:
        found = kept.find(list(row))
        assert found is not None
        assert np.array_equal(found, vectors(row))
    for other in ((5, 6), (5, 6, 8), (7, 6, 5), (8, 8), ()):
        assert kept.find(other) is None


def test_they_are_computed_once_and_read_afterwards_however_seldom() -> None:
    kept = Kept()
    first, again = kept.ask(), kept.ask(passes=1)
    assert first is not None
    assert again is not None
    assert kept.computed == 1
    assert np.array_equal(again.find(ROWS[0]), vectors(ROWS[0]))
    (note,) = kept.notes
    assert note.startswith("activations of 5 rows below the first trained block are kept: 132 B")


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"made_by": ("other weights", "1")}, id="weights"),
        pytest.param({"made_by": ("weights", "2")}, id="block"),
        pytest.param({"rows": (*ROWS[:4], (5, 6, 7, 9))}, id="a token"),
        pytest.param({"rows": (ROWS[1], ROWS[0], *ROWS[2:])}, id="order"),
        pytest.param({"rows": ((5, 6), (7, 8), *ROWS[2:])}, id="a border between rows"),
    ],
)
def test_anything_they_depend_on_makes_them_anew(other: dict[str, Any]) -> None:
    kept = Kept()
    kept.ask()
    kept.ask(**other)
    assert kept.computed == 2


def test_the_weights_below_the_cut_are_in_the_key_and_those_above_are_not(tiny_encoder: Path) -> None:
    rows = labelled(4)
    learner: Any = prepared(tiny_encoder, task_of("classify_text"), Frozen(blocks=1), rows)
    body: Body = learner.network.body
    layers = learner.network.backbone.encoder.layer
    before = body.fingerprint_below(1)
    assert body.fingerprint_below(2) != before
    with torch.no_grad():
        layers[1].output.dense.weight[3, 4] += 1e-3
        learner.network.head.weight[0, 0] += 1
        assert body.fingerprint_below(1) == before
        layers[0].output.LayerNorm.bias[5] += 1e-6
        assert body.fingerprint_below(1) != before
        layers[0].output.LayerNorm.bias[5] -= 1e-6
        learner.network.backbone.embeddings.word_embeddings.weight[7, 0] += 1e-3
        assert body.fingerprint_below(1) != before


def test_the_number_format_is_in_the_key(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Sequence[str]] = []
    monkeypatch.setattr(
        "migaki.tasks.body.activations_of", lambda rows, made_by, *rest, **how: seen.append(tuple(made_by))
    )
    rows = labelled(4)
    for dtype in (torch.float32, torch.bfloat16):
        learner: Any = prepared(tiny_encoder, task_of("classify_text"), Frozen(blocks=1), rows)
        learner.compute_in(dtype)
        learner.settle(learner.encode(rows), rows.rows, 3, lambda _: None)
    # Twice each: training and validation.
    assert len(seen) == 4
    assert seen[0] == seen[1] != seen[2] == seen[3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_was_computed_in_the_format_of_the_training(tiny_encoder: Path, dtype: torch.dtype) -> None:
    rows = labelled(4)
    learner: Any = prepared(tiny_encoder, task_of("classify_text"), Frozen(blocks=1), rows)
    learner.compute_in(dtype)
    assert learner.settle(learner.encode(rows), rows.rows, 3, lambda _: None)["activations_kept"]
    learner.evaluation_mode()
    body: Body = learner.network.body
    found = {}
    for wanted in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", wanted, enabled=wanted != torch.float32):
            found[wanted] = {
                e.ids: vectors_TD for e in learner.encode(rows) for _, (vectors_TD,) in body.below([e.ids], 1, [[0]])
            }
    other = next(each for each in found if each != dtype)
    for ids, expected_TD in found[dtype].items():
        # A row among others may be rounded otherwise than alone, here and there.
        kept_TD = body._find(ids)
        near, far = (np.linalg.norm(kept_TD - each) for each in (expected_TD, found[other][ids]))
        assert near < 0.3 * far


def test_more_than_may_be_used_is_refused_with_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """11 tokens of 3 numbers of 4 bytes are 132 bytes."""
    kept = Kept()
    monkeypatch.setenv("MIGAKI_ACTIVATION_BYTES", "131")
    assert kept.ask() is None
    assert kept.notes == ["activations are computed anew each time: they would take 132 B, 131 B may be used"]
    assert kept.computed == 0
    monkeypatch.setenv("MIGAKI_ACTIVATION_BYTES", "132")
    assert kept.ask() is not None


def test_without_a_setting_a_quarter_of_the_free_disk_may_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Disk:
        free = 4 * 131

    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "not" / "there" / "yet"))
    monkeypatch.setattr(activations.shutil, "disk_usage", lambda folder: Disk if folder == tmp_path else None)
    kept = Kept()
    assert kept.ask() is None
    assert "131 B may be used" in kept.notes[0]


def test_where_reading_is_slower_than_computing_nothing_is_kept(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept()
    monkeypatch.setattr(activations, "_read_seconds", lambda path: 1e6)
    assert kept.ask() is None
    assert kept.notes[0].startswith("activations are computed anew each time: reading them takes 1000000.0 s here")
    assert list((own_cache / "activations").glob("*")) == []


def test_the_time_to_read_is_that_of_the_whole_file_though_only_a_part_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activations, "_SAMPLE_BYTES", 250)
    clock = iter([10.0, 12.0])
    monkeypatch.setattr(activations.time, "perf_counter", lambda: next(clock))
    path = tmp_path / "hidden.bin"
    path.write_bytes(bytes(1000))
    # 2 s for 250 of 1000 bytes
    assert activations._read_seconds(path) == 8.0


def test_a_file_that_stays_in_memory_is_kept_whatever_the_disk_did_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a busy disk would decide whether a model of two small blocks computes them once or each time."""
    clock = iter([10.0, 10.0, 20.0, 90.0])
    monkeypatch.setattr(activations.time, "perf_counter", lambda: next(clock))
    kept = Kept()
    assert kept.ask() is not None
    assert kept.computed == 1


@pytest.mark.parametrize("passes", [0, 1])
def test_what_is_read_once_is_not_kept(passes: int, own_cache: Path) -> None:
    kept = Kept()
    assert kept.ask(passes=passes) is None
    assert (kept.computed, kept.notes) == (0, [])
    assert not (own_cache / "activations").exists()


def test_no_rows_are_nothing_to_keep() -> None:
    kept = Kept()
    assert kept.ask(rows=()) is None
    assert kept.notes == []


def test_damaged_activations_are_made_again(own_cache: Path) -> None:
    kept = Kept()
    kept.ask()
    (path,) = own_cache.glob("activations/*/hidden.bin")
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    from migaki.core import cache

    cache._checked.clear()  # as a new process begins
    again = kept.ask()
    assert kept.computed == 2
    assert again is not None
    assert all(np.array_equal(again.find(row), vectors(row)) for row in ROWS)


def test_a_training_on_the_cache_of_another_split_finds_its_own_rows_only(own_cache: Path) -> None:
    kept = Kept()
    first, second = kept.ask(), kept.ask(rows=((1, 2), (3,), (4,), (6,), (7,)))
    assert first is not None
    assert second is not None
    assert first.find((1, 2)) is None
    assert np.array_equal(second.find((1, 2)), vectors((1, 2)))
    assert Cache("activations").bytes_used() > 132
