"""The number format is measured, not believed; and the narrow one still trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import migaki
from learners import CASES, prepared, rows_of, task_of
from migaki.training import precision
from migaki.training.loop import accumulate_gradients
from migaki.training.precision import measured_precision, probe
from tiny import labelled_rows, write_rows

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for the measurement: the figures to give, and the shapes it was asked for."""
    told: dict[str, Any] = {"gflops": {"float32": 100.0, "bfloat16": 50.0, "float16": 300.0}, "asked": []}

    def told_probe(shapes: Any, device: torch.device) -> dict[str, float]:
        told["asked"].append(sorted(shapes))
        return dict(told["gflops"])

    monkeypatch.setattr(precision, "probe", told_probe)
    return told


def model(width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Embedding(90, width), nn.Linear(width, 4), nn.Linear(width, 30), nn.Linear(width, 30))


@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_what_the_recipe_wants_is_taken_unmeasured(wanted: str, probed: dict[str, Any]) -> None:
    found = measured_precision(model(), CPU, wanted)
    assert (found.dtype, found.gflops, found.reason) == (wanted, {}, "set in the recipe")
    assert found.torch_dtype == {"float32": torch.float32, "bfloat16": torch.bfloat16}[wanted]
    assert probed["asked"] == []


@pytest.mark.parametrize(
    ("bfloat16", "chosen"), [(50.0, "float32"), (120.0, "float32"), (120.5, "bfloat16"), (900.0, "bfloat16")]
)
def test_the_narrow_format_has_to_be_a_fifth_faster(bfloat16: float, chosen: str, probed: dict[str, Any]) -> None:
    """float16 would be three times as fast and is never chosen."""
    probed["gflops"]["bfloat16"] = bfloat16
    found = measured_precision(model(), CPU, "auto")
    assert found.dtype == chosen
    assert found.gflops == probed["gflops"]
    assert found.reason == f"GFLOP/s measured on this machine: float32 100, bfloat16 {bfloat16:.0f}, float16 300"


def test_the_most_common_shapes_are_measured_once_for_each_machine(
    probed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        measured_precision(model(), CPU, "auto")
    # 30 x 8 is there twice, the embedding looks up and multiplies nothing.
    assert probed["asked"] == [[(4, 8), (30, 8)]]
    measured_precision(model(16), CPU, "auto")
    assert len(probed["asked"]) == 2
    monkeypatch.setattr(precision, "cpu_name", lambda: "another machine")
    measured_precision(model(), CPU, "auto")
    assert len(probed["asked"]) == 3
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    measured_precision(model(), CPU, "auto")
    assert len(probed["asked"]) == 4


def test_a_convolution_is_measured_as_the_product_it_is(probed: dict[str, Any]) -> None:
    """Filters of 3 x 3 over 8 channels are 72 numbers a place; those that see one channel each are no product."""
    measured_precision(nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 5, groups=16)), CPU, "auto")
    assert probed["asked"] == [[(16, 72)]]


def test_a_model_without_matrices_is_measured_at_some_shape(probed: dict[str, Any]) -> None:
    measured_precision(nn.Embedding(3, 4), CPU, "auto")
    assert probed["asked"] == [[(512, 512)]]


def test_the_probe_counts_two_operations_for_each_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """512 tokens through (4, 8) and (16, 8) in a microsecond each: 2 * 512 * 8 * 20 / 2e-6 s = 81.92 GFLOP/s."""
    monkeypatch.setattr(precision, "_fastest", lambda x, w, seconds: 1e-6)
    assert probe([(4, 8), (16, 8)], CPU) == {"float32": 81.9, "bfloat16": 81.9, "float16": 81.9}


def test_the_real_probe_measures_every_format() -> None:
    found = probe([(16, 8)], CPU, seconds=0.01)
    assert set(found) == {"float32", "bfloat16", "float16"}
    assert all(value > 0 for value in found.values())


def test_the_figures_of_a_run_stand_in_its_environment(
    probed: dict[str, Any], tiny_encoder: Path, tmp_path: Path
) -> None:
    write_rows(tmp_path / "rows.jsonl", labelled_rows(30))
    recipe = {
        "task": {"kind": "classify_text", "head": "random"},
        "model": str(tiny_encoder),
        "data": {"train": str(tmp_path / "rows.jsonl")},
        "method": "full",
        "training": {"epochs": 1},
    }
    probed["gflops"]["bfloat16"] = 200.0
    run = migaki.train(recipe, runs=tmp_path / "runs")
    found = json.loads((run.path / "environment.json").read_text(encoding="utf-8"))["precision"]
    assert found["dtype"] == "bfloat16"
    assert found["gflops"] == probed["gflops"]
    # It trained in that format: float32 from the same start ends elsewhere, and not far off.
    recipe["training"] = {"epochs": 1, "precision": "float32"}
    plain = migaki.train(recipe, runs=tmp_path / "runs")
    narrow, wide = run.metrics["loss"].value, plain.metrics["loss"].value
    assert narrow != wide
    assert narrow == pytest.approx(wide, rel=0.05)


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize(("kind", "method"), CASES)
def test_bfloat16_trains_within_a_twentieth_of_float32(
    kind: str, method: str, flat: bool, tiny_encoder: Path, tiny_decoder: Path
) -> None:
    """Six steps on eight rows; the trained weights stay float32 all the way."""
    rows = rows_of(kind, 8)
    task = task_of(kind, head="random") if kind == "classify_text" else task_of(kind)
    losses: dict[torch.dtype, list[float]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        learner: Any = prepared(tiny_encoder if kind == "classify_text" else tiny_decoder, task, method, rows)
        learner.network.body.use_flat = flat
        learner.compute_in(dtype)
        examples = learner.encode(rows)
        parameters = [p for group in learner.parameter_groups() for _, p in group.named]
        optimizer = torch.optim.AdamW(parameters, lr=1e-2)
        learner.train_mode(0.0)
        weight = sum(e.weight for e in examples)
        losses[dtype] = []
        for _ in range(6):
            optimizer.zero_grad()
            losses[dtype].append(accumulate_gradients(learner, examples, 0.0) / weight)
            optimizer.step()
        assert {p.dtype for p in parameters} == {torch.float32}
        losses[dtype].append(sum(p.loss for p in learner.predict(rows.rows, answers=0)) / weight)
    wide, narrow = losses[torch.float32], losses[torch.bfloat16]
    assert narrow != wide
    assert narrow == pytest.approx(wide, rel=0.05)
    # Edits of the prompt alone reach little in a decoder of random weights.
    assert wide[-1] < (0.997 if (kind, method) == ("generate", "reft") else 0.97) * wide[0]
