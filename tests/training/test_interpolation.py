"""Between base and tuned model: the ends are bitwise, the middle is worked out by hand, and the recipe chooses what is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import migaki
from learners import prepared, rows_of, stir, task_of, trained
from migaki.core.parts import ParameterGroup
from migaki.methods import Lora
from migaki.methods.adapters import adapted_layers
from migaki.training.checkpoint import Start
from migaki.training.interpolation import ALPHAS, interpolation_curve, keep_interpolated, mix, weights_of
from migaki.training.loop import Judge
from tiny import labelled_rows, write_rows


class Numbers:
    """A learner with two weights: w goes the way, a stays as tuned."""

    def __init__(self) -> None:
        self.w, self.a = torch.nn.Parameter(torch.tensor([3.0, 0.1])), torch.nn.Parameter(torch.tensor([7.0]))

    def parameter_groups(self) -> list[ParameterGroup]:
        return [
            ParameterGroup([("w", self.w)], decays=True),
            ParameterGroup([("a", self.a)], decays=True, mixes=False),
        ]

    def evaluation_mode(self) -> None: ...

    def predict(self, rows: Any, **how: Any) -> list[Any]:
        return []


START = {"w": torch.tensor([1.0, -0.0]), "a": torch.tensor([5.0])}


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.detach().view(torch.int32).tolist()  # type: ignore[no-any-return]


def test_a_quarter_of_the_way_from_one_to_three_is_one_and_a_half() -> None:
    learner: Any = Numbers()
    tuned = weights_of(learner)
    mix(learner, START, tuned, 0.25)
    assert learner.w.tolist() == pytest.approx([1.5, 0.025])
    assert learner.a.tolist() == [7.0]
    for alpha, wanted in ((0.0, START), (1.0, tuned), (0.0, START)):
        mix(learner, START, tuned, alpha)
        assert {name: bits(t) for name, t in weights_of(learner).items()} == {n: bits(t) for n, t in wanted.items()}


def test_the_curve_is_judged_at_each_alpha_and_the_tuned_weights_come_back() -> None:
    learner: Any = Numbers()
    tuned = weights_of(learner)
    curve = interpolation_curve(learner, START, tuned, lambda: {"w": float(learner.w.detach()[0])})
    assert [(point.alpha, point.scores["w"]) for point in curve] == [(a, pytest.approx(1 + 2 * a)) for a in ALPHAS]
    assert bits(learner.w) == bits(tuned["w"])

    def broken() -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interpolation_curve(learner, START, tuned, broken)
    assert bits(learner.w) == bits(tuned["w"])


@pytest.mark.parametrize(
    ("wanted", "scores", "kept"),
    [
        ("best", [0.1, 0.2, 0.9, 0.3, 0.4], 0.5),
        # Of equal ones that which has forgotten least.
        ("best", [0.1, 0.9, 0.9, 0.3, 0.9], 0.25),
        ("best", [0.9, 0.9, 0.9, 0.9, 0.9], 0.0),
        ("best", [0.1, float("nan"), 0.2, float("nan"), 0.2], 0.5),
        (0.75, [0.9, 0.1, 0.1, 0.1, 0.1], 0.75),
        (0.1, [0.9, 0.0, 0.1, 0.1, 0.1, 0.1], 0.1),
        (1.0, [0.9, 0.1, 0.1, 0.1, 0.1], 1.0),
    ],
)
def test_what_is_kept_is_what_the_recipe_asks_for(
    wanted: Any, scores: Sequence[float], kept: float, tmp_path: Path
) -> None:
    learner: Any = Numbers()
    with torch.no_grad():
        tuned = weights_of(learner)
        mix(learner, START, tuned, 0.0)
        start = Start(tmp_path, {"w": learner.w, "a": learner.a})
        mix(learner, START, tuned, 1.0)
    left = iter(scores)
    judge = Judge(lambda _: {"accuracy": next(left), "loss": float("inf")}, "accuracy", "max")
    found = keep_interpolated(learner, start, wanted, judge, ())
    assert found["kept"] == kept
    assert float(learner.w.detach()[0]) == pytest.approx(1 + 2 * kept)
    assert [point["alpha"] for point in found["curve"]] == sorted({*ALPHAS, kept})
    # JSON has no infinity.
    json.loads(json.dumps(found, allow_nan=False))


def test_half_of_an_adapter_is_half_of_its_update(tiny_decoder: Path) -> None:
    """W + s B A at half the way is the mean of W and of the merged weight, though both factors have moved."""
    rows = rows_of("generate", 4)
    learner = prepared(tiny_decoder, task_of("generate"), Lora(rank=2), rows, moved=False)
    start = weights_of(learner)
    stir(learner)
    with torch.no_grad():
        for name, p in trained(learner).items():
            if name.endswith("lora_A"):
                p.add_(0.1)
    tuned = weights_of(learner)
    layers = dict(adapted_layers(learner.network.backbone))  # type: ignore[attr-defined]
    ends = {name: layer._updated().detach().clone() for name, layer in layers.items()}
    mix(learner, start, tuned, 0.5)
    for name, layer in layers.items():
        wanted = (layer.base.weight + ends[name]) / 2
        assert torch.allclose(layer._updated(), wanted, rtol=1e-5, atol=1e-6), name
        assert (ends[name] - layer.base.weight).abs().max() > 1e-3


def test_the_run_keeps_saves_and_reports_the_mixture(tiny_encoder: Path, tmp_path: Path) -> None:
    """At 0 the run ends with its base, at 1 with what it would have been without, and in the middle with their mean."""
    write_rows(tmp_path / "rows.jsonl", labelled_rows(60))
    recipe = {
        "task": {"kind": "classify_text", "head": "random"},
        "data": {"train": str(tmp_path / "rows.jsonl")},
        "model": str(tiny_encoder),
        "method": "full",
    }
    weights, results = {}, {}
    for alpha in (None, 0.0, 0.5, 1.0, "best"):
        training = {"epochs": 2, "learning_rate": 3e-3, "keep_best_by": "loss", "interpolate": alpha}
        run = migaki.train({**recipe, "training": training}, tmp_path / "runs", new=True)
        weights[alpha] = {
            name: tensor
            for file in ("model", "head")
            for name, tensor in load_file(run.path / "model" / f"{file}.safetensors").items()
        }
        results[alpha] = run.results
    assert "interpolation" not in results[None]["details"]
    assert results[0.0]["metrics"] == results[0.0]["baseline"]["metrics"] == results[None]["baseline"]["metrics"]
    assert results[1.0]["metrics"] == results[None]["metrics"]
    for name, tensor in weights[None].items():
        assert torch.equal(weights[1.0][name], tensor), name
        mean = (weights[0.0][name] + tensor) / 2
        assert torch.allclose(weights[0.5][name], mean, rtol=1e-5, atol=1e-7), name
    curve = results["best"]["details"]["interpolation"]["curve"]
    assert curve == results[0.5]["details"]["interpolation"]["curve"]
    losses = {point["alpha"]: point["scores"]["loss"] for point in curve}
    assert results["best"]["details"]["interpolation"]["kept"] == min(losses, key=lambda alpha: losses[alpha])
    assert losses[1.0] < losses[0.0]
