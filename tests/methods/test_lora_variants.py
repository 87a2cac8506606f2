"""DoRA, ranks and strengths by layer, LoRA+, and the proof of a merge: each beside peft or worked out by hand."""

# Shapes: T tokens, V vocabulary, I in, O out

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from architectures import decoder
from learners import base_from, conversations, prepared, rows_of, task_of, trained
from migaki.core.errors import ModelError, RecipeError
from migaki.core.store import RunFolder
from migaki.methods import Lora
from migaki.methods.adapters import LoraLinear, adapted_layers, merge_adapters, merge_and_compare
from migaki.training import Training
from migaki.training.loop import Judge, fit

KINDS = ("classify_text", "generate", "gpt2")
BY_LAYER: dict[str, dict[str, Any]] = {
    "classify_text": {"rank_pattern": {"query": 2, "layer.0.*": 6}, "alpha_pattern": {"value": 3.0}},
    "generate": {"rank_pattern": {"q_proj": 2, "layers.0.*": 6}, "alpha_pattern": {"v_proj": 3.0}},
    "gpt2": {"rank_pattern": {"c_attn": 2, "h.0.*": 6}, "alpha_pattern": {"c_fc": 3.0}},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "dora": {"dora": True},
    "by layer": {},
    "all of it": {"dora": True, "rslora": True, "alpha": 5.0},
}


def variant(name: str, kind: str) -> Lora:
    return Lora(rank=4, **VARIANTS[name], **({} if name == "dora" else BY_LAYER[kind]))


@pytest.fixture(scope="module")
def folders(tiny_encoder: Path, tiny_decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    gpt2 = decoder("gpt2", tiny_decoder)
    folder = tmp_path_factory.mktemp("gpt2")
    gpt2.model.save_pretrained(folder)
    gpt2.tokenizer.save_pretrained(folder)
    return {"classify_text": tiny_encoder, "generate": tiny_decoder, "gpt2": folder}


def task_kind(kind: str) -> str:
    return "classify_text" if kind == "classify_text" else "generate"


def learner_for(kind: str, lora: Lora, folders: dict[str, Path]) -> Any:
    """Every factor and every length moved from where it starts."""
    task = task_kind(kind)
    learner = prepared(folders[kind], task_of(task), lora, rows_of(task, 6))
    with torch.no_grad():
        for name, parameter in trained(learner).items():
            if name.endswith("magnitude"):
                parameter.mul_(torch.linspace(0.8, 1.25, len(parameter)))
    learner.evaluation_mode()
    return learner


def in_peft(kind: str, folders: dict[str, Path], adapter: Path) -> Any:
    import peft

    base = base_from(folders[kind], "encoder" if kind == "classify_text" else "decoder").model
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(base, str(adapter), is_trainable=True)
    # peft only warns where tensors of the file fit no layer, or layers find no tensor.
    assert not [text for w in warned if "key" in (text := str(w.message)).lower()]
    return model.eval()


def says(model: Any) -> torch.Tensor:
    """Logits of a decoder, hidden vectors of an encoder."""
    out = model(input_ids=torch.tensor([[5, 9, 17, 33, 8, 21]]))
    return (out.logits if hasattr(out, "logits") else out.last_hidden_state)[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_peft_says_the_same_with_the_same_gradients(
    kind: str, name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    import peft

    learner = learner_for(kind, variant(name, kind), folders)
    learner.save(tmp_path)
    model = in_peft(kind, folders, tmp_path)
    found, wanted = says(learner.network.backbone), says(model)
    assert (found - wanted).abs().max() <= 1e-5
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    theirs = {n.removeprefix("base_model.model."): p.grad for n, p in model.named_parameters() if p.requires_grad}
    peft_names = {"lora_A": "lora_A.default.weight", "lora_B": "lora_B.default.weight"}
    peft_names["lora_magnitude"] = "lora_magnitude_vector.default.weight"
    compared = 0
    for layer_name, layer in adapted_layers(learner.network.backbone):
        for own, parameter in layer.named_parameters(recurse=False):
            gradient = theirs.pop(f"{layer_name}.{peft_names[own]}")
            # Of the largest number in it: the gradients of a sum over all logits are far from 1.
            assert (parameter.grad - gradient).abs().max() <= 1e-5 * max(1.0, float(gradient.abs().max())), own
            assert float(gradient.abs().max()) > 1e-4, f"{layer_name}.{own}: a gradient of nothing proves nothing"
            compared += 1
    assert theirs == {}
    assert compared == (3 if variant(name, kind).dora else 2) * len(dict(adapted_layers(learner.network.backbone)))
    # And the file is the one that peft itself would write.
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert {n: t.shape for n, t in stored.items()} == {
        n: t.shape for n, t in peft.get_peft_model_state_dict(model).items()
    }


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_variant_says_what_the_adapter_said(kind: str, name: str, folders: dict[str, Path]) -> None:
    learner = learner_for(kind, variant(name, kind), folders)
    backbone = learner.network.backbone
    with torch.no_grad():
        wanted = says(backbone)
        merge_adapters(backbone)
        assert not [n for n, _ in backbone.named_parameters() if "lora" in n]
        assert (says(backbone) - wanted).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_saved_dora_is_restored(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    learner, lora = learner_for(kind, variant("all of it", kind), folders), variant("all of it", kind)
    learner.save(tmp_path)
    base = base_from(folders[kind], "encoder" if kind == "classify_text" else "decoder")
    again = lora.restore(base, task_of(kind), tmp_path)
    for name, parameter in trained(learner).items():
        assert torch.equal(trained(again)[name], parameter), name


def test_the_first_pattern_that_fits_gives_rank_and_strength(tiny_decoder: Path, tmp_path: Path) -> None:
    """q_proj comes first, so block 0's q has rank 2; its alpha is twice that, the scale stays 2."""
    lora = Lora(rank=4, rank_pattern={"q_proj": 2, "layers.0.*": 6}, alpha_pattern={"v_proj": 3.0})
    learner = prepared(tiny_decoder, task_of("generate"), lora, conversations(4))
    layers = dict(adapted_layers(learner.network.backbone))  # type: ignore[attr-defined]
    found = {
        name.removeprefix("model.layers."): (layer.lora_A.shape[0], layer.lora_B.shape[1], layer.scale)
        for name, layer in layers.items()
    }
    assert found["0.self_attn.q_proj"] == found["1.self_attn.q_proj"] == (2, 2, 2.0)
    assert found["0.self_attn.k_proj"] == found["0.mlp.up_proj"] == (6, 6, 2.0)
    assert found["1.mlp.up_proj"] == (4, 4, 2.0)
    assert found["0.self_attn.v_proj"] == (6, 6, 3.0 / 6)
    assert found["1.self_attn.v_proj"] == (4, 4, 3.0 / 4)
    learner.save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["rank_pattern"]["model.layers.0.self_attn.q_proj"] == 2
    assert config["alpha_pattern"]["model.layers.0.self_attn.k_proj"] == 12.0


@pytest.mark.parametrize("setting", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_for_no_adapted_layer_is_refused(setting: str, tiny_decoder: Path) -> None:
    lora = Lora(targets=["q_proj"], **{setting: {"q_proj": 2, "v_proj": 3}})
    with pytest.raises(RecipeError) as error:
        prepared(tiny_decoder, task_of("generate"), lora, conversations(4))
    (problem,) = error.value.problems
    assert problem.path == f"method.{setting}"
    assert "'v_proj' matches no layer that is meant here; they are called q_proj." in problem.message


# DoRA


def one_layer() -> LoraLinear:
    """W = diag(3, 2) with bias (10, 20), B A = [[4, 0], [0, 0]] / 2 at scale 2: W + 2 B A = diag(7, 2)."""
    base = nn.Linear(2, 2)
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
        base.bias.copy_(torch.tensor([10.0, 20.0]))
    layer = LoraLinear(base.requires_grad_(False), 1, 2.0, 0.0, torch.Generator(), dora=True)
    with torch.no_grad():
        layer.lora_A.copy_(torch.tensor([[2.0, 0.0]]))
        layer.lora_B.copy_(torch.tensor([[1.0], [0.0]]))
    return layer


def test_one_layer_of_dora_by_hand() -> None:
    """Lengths start as those of W, (3, 2). With W + 2 B A = diag(7, 2) the directions are the axes, so y = (3, 4) + bias."""
    layer = one_layer()
    assert layer.lora_magnitude is not None
    assert layer.lora_magnitude.tolist() == [3.0, 2.0]
    y = layer(torch.tensor([[1.0, 2.0]]))
    assert y.tolist() == [[3.0 + 10, 4.0 + 20]]
    y.sum().backward()
    # dy_1 / dm_1 = (7 * 1) / 7, dy_2 / dm_2 = (2 * 2) / 2.
    assert layer.lora_magnitude.grad is not None
    assert layer.lora_magnitude.grad.tolist() == pytest.approx([1.0, 2.0])
    # The length is a constant: dy_1 / dB_1 = m / 7 * scale * A x = 3 / 7 * 2 * 2, though turning along W changes nothing.
    assert layer.lora_B.grad is not None
    assert layer.lora_B.grad[0, 0].item() == pytest.approx(12 / 7)
    assert layer.merged().weight.flatten().tolist() == pytest.approx([3.0, 0.0, 0.0, 2.0])


def test_what_is_kept_of_the_lengths_in_evaluation_follows_the_weights() -> None:
    """The fused optimizer changes weights without telling, copying tells: neither may leave old lengths behind."""
    layer, x = one_layer(), torch.tensor([[1.0, 2.0]])
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.5, fused=True)

    def plain() -> torch.Tensor:
        w_OI = layer.base.weight + layer.scale * layer.lora_B @ layer.lora_A
        w_OI = layer.lora_magnitude[:, None] * w_OI / w_OI.norm(dim=1, keepdim=True)  # type: ignore[index]
        return x @ w_OI.T + layer.base.bias

    for turn in range(4):
        layer.train()
        (layer(x) * torch.tensor([1.0, -2.0])).sum().backward()
        optimizer.step()
        layer.eval()
        assert torch.allclose(layer(x), plain()), turn
        with torch.no_grad():
            layer.lora_B.copy_(layer.lora_B + 1.0)
        assert torch.allclose(layer(x), plain()), turn


def test_dropout_falls_on_the_factors_of_dora_alone() -> None:
    """With half of A x dropped, y_1 is 3 / 7 of 3 or of 3 + 8, whatever of the base's own output there is."""
    layer = one_layer()
    layer.adapter_dropout.p = 0.5
    found = layer.train()(torch.tensor([[1.0, 2.0]]).repeat(200, 1))
    assert {round(y, 4) for y in found[:, 0].tolist()} == {round(10 + 9 / 7, 4), round(10 + 33 / 7, 4)}
    assert set(found[:, 1].tolist()) == {24.0}


def test_dora_starts_as_the_base(folders: dict[str, Path]) -> None:
    for kind in KINDS:
        task = task_kind(kind)
        learner: Any = prepared(folders[kind], task_of(task), Lora(rank=4, dora=True), rows_of(task, 6), moved=False)
        learner.evaluation_mode()
        role: Any = "encoder" if kind == "classify_text" else "decoder"
        with torch.no_grad():
            assert torch.allclose(
                says(learner.network.backbone), says(base_from(folders[kind], role).model), rtol=1e-5, atol=1e-6
            ), kind


# LoRA+


def test_the_second_factor_moves_as_many_times_faster_as_the_recipe_says(tiny_encoder: Path, tmp_path: Path) -> None:
    """The first step of Adam moves every number by its rate, unless its gradient is next to nothing."""
    rows = rows_of("classify_text", 8)
    learner = prepared(tiny_encoder, task_of("classify_text", head="random"), Lora(rank=2, b_rate=16.0), rows)
    before = {name: p.detach().clone() for name, p in trained(learner).items()}
    run = RunFolder.create(tmp_path, "plus", {})
    training = Training(max_steps=1, batch_size=8, weight_decay=0.0, warmup=0.0, clip=None)
    scores = iter([2.0, 1.0])
    judge = Judge(lambda _: {"loss": next(scores)}, "loss", "min")
    fit(learner, training, learner.encode(rows), rows.rows, judge, run, learning_rate=1e-4, seed=0)
    run.unlock()
    kinds = {"lora_A": 1e-4, "lora_B": 16e-4, "head.weight": 1e-4}
    for name, parameter in trained(learner).items():
        rate = next((rate for kind, rate in kinds.items() if name.endswith(kind)), None)
        if rate is not None:
            moved = (parameter.detach() - before[name]).abs()
            assert float(moved.median()) == pytest.approx(rate, rel=0.1), name


# the proof of a merge


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_right_merge_is_proved(kind: str, name: str, folders: dict[str, Path]) -> None:
    rows = rows_of(task_kind(kind), 40).rows
    found = merge_and_compare(learner_for(kind, variant(name, kind), folders).network, rows)
    assert found.rows == 32
    assert found.equal == 1.0
    assert 0 <= found.largest_difference <= 1e-4


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("fault", ["the scale is a tenth too large", "one layer is forgotten", "not a number"])
def test_a_wrong_merge_is_refused(
    fault: str, kind: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learner_for(kind, Lora(rank=4), folders)
    right, layers = LoraLinear.merged, [layer for _, layer in adapted_layers(learner.network.backbone)]

    def wrong(self: LoraLinear) -> nn.Module:
        if fault == "the scale is a tenth too large":
            self.scale *= 1.1
        elif self is layers[3]:
            with torch.no_grad():
                self.lora_B.mul_(0.0 if fault == "one layer is forgotten" else torch.nan)
        return right(self)

    monkeypatch.setattr(LoraLinear, "merged", wrong)
    with pytest.raises(ModelError, match="Merging the adapter into its base changes what the model says: on 6 rows"):
        merge_and_compare(learner.network, rows_of(kind, 6).rows)


def test_rows_without_an_answer_prove_nothing_and_are_left_out(tiny_decoder: Path) -> None:
    """A conversation that waits for its answer has no target; the others are compared all the same."""
    from dataclasses import replace

    from migaki.core.types import Conversation

    learner: Any = prepared(tiny_decoder, task_of("generate"), Lora(rank=4), conversations(4))
    rows = [
        row if i else replace(row, content=Conversation(row.content.turns[:1]))
        for i, row in enumerate(conversations(4).rows)
    ]
    assert merge_and_compare(learner.network, rows).rows == 3


@pytest.mark.parametrize("gone", [False, True])
def test_a_run_is_merged_on_its_validation_rows_or_where_they_are_gone_on_those_it_kept(
    gone: bool, finished_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import migaki
    from migaki.core.errors import DataError
    from migaki.data import Data

    def missing(*arguments: Any) -> Any:
        raise DataError("rows.jsonl is gone.")

    for number, left in ((1, {False: 9, True: 18}), (3, {False: 2, True: 7})):
        run = migaki.load(number, finished_runs / "runs")
        with monkeypatch.context() as patch:
            if gone:
                patch.setattr(Data, "load", missing)
            merge = run.as_base(f"run:{number}").merge
        assert merge is not None
        assert (merge["rows"], merge["equal"]) == (left[gone], 1.0)
        assert merge["largest_difference"] <= 1e-4
    assert migaki.load(2, finished_runs / "runs").as_base("run:2").merge is None, "nothing was merged"
