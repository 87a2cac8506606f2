"""LoRA: its files are peft's, its scale is the paper's, and merging changes no answer."""

# Shapes: T tokens, D hidden, V vocabulary

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from learners import METHODS, base_from, conversations, labelled, prepared, rows_of, task_of, trained
from migaki.core.errors import DamagedError, RecipeError
from migaki.core.parts import Learner
from migaki.methods import Lora, adapters
from migaki.methods.adapters import LoraLinear, adapted_layers, merge_adapters

IDS_1T = torch.tensor([[5, 9, 17, 33, 8, 21]])


def says(backbone: Any) -> torch.Tensor:
    """Logits of a decoder, hidden vectors of an encoder, (T, D) or (T, V)."""
    with torch.no_grad():
        out = backbone.eval()(input_ids=IDS_1T)
    return (out.logits if hasattr(out, "logits") else out.last_hidden_state)[0]  # type: ignore[no-any-return]


def learner_for(kind: str, lora: Lora, encoder: Path, decoder: Path) -> Learner:
    return prepared(encoder if kind == "classify_text" else decoder, task_of(kind), lora, rows_of(kind, 6))


@pytest.fixture(scope="module")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory, tiny_decoder: Path) -> Path:
    """Folder of a two-layer GPT-2, whose linear layers are Conv1D, with the tokenizer of the tiny Llama."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    torch.manual_seed(0)
    GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=256,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


ADAPTERS = [
    pytest.param(Lora(rank=4), id="default"),
    pytest.param(Lora(rank=4, alpha=3.0, rslora=True), id="rslora"),
    pytest.param(Lora(rank=2, alpha=5.0, targets=["q_proj", "v_proj", "query", "value"]), id="some"),
]


def only_present(lora: Lora, kind: str) -> Lora:
    """The patterns that name a layer of this kind of model."""
    if lora.targets == "all-linear":
        return lora
    names = ["query", "value"] if kind == "classify_text" else ["q_proj", "v_proj"]
    return lora.model_copy(update={"targets": names})


@pytest.mark.parametrize("lora", ADAPTERS)
@pytest.mark.parametrize("kind", ["classify_text", "generate"])
def test_peft_loads_the_saved_adapter_and_says_the_same(
    kind: str, lora: Lora, tiny_encoder: Path, tiny_decoder: Path, tmp_path: Path
) -> None:
    learner = learner_for(kind, only_present(lora, kind), tiny_encoder, tiny_decoder)
    learner.save(tmp_path)
    wanted = says(learner.network.backbone)  # type: ignore[attr-defined]
    folder = tiny_encoder if kind == "classify_text" else tiny_decoder
    found = says_in_peft(folder, kind, tmp_path)
    assert (found - wanted).abs().max() <= 1e-5
    base = says(base_from(folder, "encoder" if kind == "classify_text" else "decoder").model)
    assert (base - wanted).abs().max() > 1e-2, "the adapter does nothing, so this test would see nothing"


def says_in_peft(folder: Path, kind: str, adapter: Path) -> torch.Tensor:
    import peft

    base = base_from(folder, "encoder" if kind == "classify_text" else "decoder").model
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(base, str(adapter))
    # peft only warns where tensors of the file fit no layer, or layers find no tensor.
    assert not [text for w in warned if "key" in (text := str(w.message)).lower()]
    return says(model)


@pytest.mark.parametrize("lora", ADAPTERS[:2])
def test_peft_loads_an_adapter_of_gpt2(lora: Lora, tiny_gpt2: Path, tmp_path: Path) -> None:
    """Conv1D stores its weight as (in, out); factors keep peft's shapes, A (rank, in) and B (out, rank)."""
    learner = prepared(tiny_gpt2, task_of("generate"), lora, conversations(4))
    layers = dict(adapted_layers(learner.network.backbone))  # type: ignore[attr-defined]
    assert all(layer.transposed for layer in layers.values())
    wide = layers["transformer.h.0.attn.c_attn"]
    assert (tuple(wide.lora_A.shape), tuple(wide.lora_B.shape)) == ((4, 32), (96, 4))
    learner.save(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["fan_in_fan_out"] is True
    wanted = says(learner.network.backbone)  # type: ignore[attr-defined]
    assert (says_in_peft(tiny_gpt2, "generate", tmp_path) - wanted).abs().max() <= 1e-5


@pytest.mark.parametrize("lora", ADAPTERS)
@pytest.mark.parametrize("kind", ["classify_text", "generate", "gpt2"])
def test_merging_in_float32_says_what_the_adapter_said(
    kind: str, lora: Lora, tiny_encoder: Path, tiny_decoder: Path, tiny_gpt2: Path
) -> None:
    if kind == "gpt2":
        lora = lora.model_copy(update={"targets": "all-linear" if lora.targets == "all-linear" else ["c_attn"]})
        learner = prepared(tiny_gpt2, task_of("generate"), lora, conversations(4))
    else:
        learner = learner_for(kind, only_present(lora, kind), tiny_encoder, tiny_decoder)
    backbone = learner.network.backbone  # type: ignore[attr-defined]
    wanted = says(backbone)
    merge_adapters(backbone)
    assert list(adapted_layers(backbone)) == []
    assert not [name for name, _ in backbone.named_parameters() if "lora" in name]
    assert (says(backbone) - wanted).abs().max() <= 1e-5


def test_one_linear_layer_by_hand() -> None:
    """y = W x + alpha / r * B (A x) with r = 1, alpha = 3: x = (1, 2), W x = (1, 2), A x = 1 * 1 + 1 * 2 = 3, times B."""
    base = nn.Linear(2, 2, bias=False)
    layer = LoraLinear(
        base, rank=1, scale=Lora(rank=1, alpha=3.0).scale_of(""), dropout=0.0, generator=torch.Generator()
    )
    with torch.no_grad():
        base.weight.copy_(torch.eye(2))
        layer.lora_A.copy_(torch.tensor([[1.0, 1.0]]))
        layer.lora_B.copy_(torch.tensor([[1.0], [-1.0]]))
        found = layer(torch.tensor([[1.0, 2.0]]))
        assert found.tolist() == [[1 + 9, 2 - 9]]
        # W + 3 B A
        assert layer.merged().weight.tolist() == [[4.0, 3.0], [-3.0, -2.0]]


def test_the_scale_is_alpha_by_rank_or_by_its_root() -> None:
    assert Lora(rank=16, alpha=8.0).scale_of("") == 0.5
    assert Lora(rank=16, alpha=8.0, rslora=True).scale_of("") == 2.0
    # Without alpha it is twice the rank: scale 2 for every rank, and 2 sqrt(rank) by the root.
    assert [Lora(rank=rank).scale_of("") for rank in (1, 8, 64)] == [2.0, 2.0, 2.0]
    assert Lora(rank=4, rslora=True).scale_of("") == 4.0


def test_only_factors_and_the_head_are_trained_and_the_first_output_is_the_base(
    tiny_encoder: Path, tiny_decoder: Path
) -> None:
    for kind in ("classify_text", "generate"):
        folder = tiny_encoder if kind == "classify_text" else tiny_decoder
        learner = prepared(folder, task_of(kind), "lora", rows_of(kind, 6), moved=False)
        names = {name.rsplit(".", 1)[-1] for name in trained(learner) if not name.startswith("head.")}
        assert names == {"lora_A", "lora_B"}
        assert {name for name in trained(learner) if name.startswith("head.")} == (
            {"head.weight", "head.bias"} if kind == "classify_text" else set()
        )
        wanted = says(base_from(folder, "encoder" if kind == "classify_text" else "decoder").model)
        assert torch.equal(says(learner.network.backbone), wanted)  # type: ignore[attr-defined]


def test_the_number_of_trained_parameters_is_rank_times_in_plus_out(tiny_decoder: Path) -> None:
    """A layer of the tiny Llama: q and o 32x32, k and v 16x32, gate and up 64x32, down 32x64; two layers."""
    learner = prepared(tiny_decoder, task_of("generate"), Lora(rank=4), conversations(4))
    sides = 2 * (32 + 32) + 2 * (16 + 32) + 3 * (64 + 32)
    assert learner.parameter_counts()[0] == 2 * 4 * sides


@pytest.mark.parametrize(
    ("targets", "wanted"),
    [
        (["q_proj"], ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]),
        (["layers.1.self_attn.*_proj"], [f"model.layers.1.self_attn.{x}_proj" for x in "qkvo"]),
        (["model.layers.0.mlp.up_proj"], ["model.layers.0.mlp.up_proj"]),
        (["*.0.*.q_proj", "down_proj"], None),
    ],
)
def test_patterns_name_layers_by_their_last_parts(
    targets: list[str], wanted: list[str] | None, tiny_decoder: Path
) -> None:
    learner = prepared(tiny_decoder, task_of("generate"), Lora(targets=targets), conversations(4))
    found = [name for name, _ in adapted_layers(learner.network.backbone)]  # type: ignore[attr-defined]
    expected = wanted or [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.down_proj",
        "model.layers.1.mlp.down_proj",
    ]
    assert sorted(found) == sorted(expected)


def test_all_linear_leaves_the_output_head_out(tiny_decoder: Path, tmp_path: Path) -> None:
    from tiny import save_decoder

    for folder in (tiny_decoder, save_decoder(tmp_path, tied=False)):
        learner = prepared(folder, task_of("generate"), "lora", conversations(4))
        names = [name for name, _ in adapted_layers(learner.network.backbone)]  # type: ignore[attr-defined]
        assert len(names) == 14
        assert "lm_head" not in names


@pytest.mark.parametrize("targets", [["attention"], ["q_proj", "query_proj"], ["layer.7.*"], ["lm_head"], []])
def test_a_pattern_that_names_nothing_is_refused_with_the_names_there_are(
    targets: list[str], tiny_decoder: Path
) -> None:
    with pytest.raises(RecipeError) as error:
        prepared(tiny_decoder, task_of("generate"), Lora(targets=targets), conversations(4))
    (problem,) = error.value.problems
    assert problem.path == "method.targets"
    if targets:
        assert repr(targets[-1]) in problem.message
        assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in problem.message


def test_what_a_layer_draws_does_not_depend_on_which_others_are_adapted(tiny_decoder: Path) -> None:
    task, rows = task_of("generate"), conversations(4)
    every = trained(prepared(tiny_decoder, task, Lora(rank=4), rows, seed=3, moved=False))
    some = trained(prepared(tiny_decoder, task, Lora(rank=4, targets=["v_proj"]), rows, seed=3, moved=False))
    assert 0 < len(some) < len(every)
    for name, parameter in some.items():
        assert torch.equal(parameter, every[name]), name


def test_the_first_factor_is_drawn_as_peft_draws_it(tiny_decoder: Path) -> None:
    """Uniform within 1 / sqrt(in), which is Kaiming's bound with a = sqrt(5)."""
    learner = prepared(tiny_decoder, task_of("generate"), Lora(rank=64), conversations(4), moved=False)
    for name, layer in adapted_layers(learner.network.backbone):  # type: ignore[attr-defined]
        bound = layer.lora_A.shape[1] ** -0.5
        size = layer.lora_A.detach().abs()
        assert float(size.max()) <= bound, name
        assert float(size.max()) > 0.98 * bound, name
        # The mean size of a uniform number in (-b, b) is b / 2.
        assert float(size.mean()) == pytest.approx(bound / 2, rel=0.05), name


def test_dropout_falls_on_the_input_of_the_adapter_and_only_in_training() -> None:
    """All of the input is kept for the base; the adapter's share is either 0 or 1 / (1 - p) of each number."""
    base = nn.Linear(4, 4, bias=False)
    layer = LoraLinear(base, rank=4, scale=1.0, dropout=0.5, generator=torch.Generator())
    with torch.no_grad():
        base.weight.copy_(10 * torch.eye(4))
        layer.lora_A.copy_(torch.eye(4))
        layer.lora_B.copy_(torch.eye(4))
        x = torch.ones(200, 4)
        layer.train()
        found = layer(x)
        assert set(found.flatten().tolist()) == {10.0, 12.0}
        assert float((found == 12.0).float().mean()) == pytest.approx(0.5, abs=0.1)
        layer.eval()
        assert set(layer(x).flatten().tolist()) == {11.0}


@pytest.mark.parametrize("kind", ["classify_text", "generate"])
def test_the_recipes_dropout_does_not_touch_the_adapters_own(kind: str, tiny_encoder: Path, tiny_decoder: Path) -> None:
    learner = learner_for(kind, Lora(rank=4, dropout=0.25), tiny_encoder, tiny_decoder)
    learner.train_mode(0.5)
    rates = {m.adapter_dropout.p for _, m in adapted_layers(learner.network.backbone)}  # type: ignore[attr-defined]
    assert rates == {0.25}


@pytest.mark.parametrize("damage", ["missing", "left over", "shape"])
def test_an_adapter_that_does_not_fit_is_refused(damage: str, tiny_decoder: Path, tmp_path: Path) -> None:
    task = task_of("generate")
    learner = prepared(tiny_decoder, task, "lora", conversations(4))
    learner.save(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[3]
    if damage == "missing":
        del tensors[name]
    elif damage == "left over":
        tensors["base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight"] = torch.zeros(4, 32)
    else:
        tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, path)
    with pytest.raises(DamagedError):
        METHODS["lora"].restore(base_from(tiny_decoder, "decoder"), task, tmp_path)


def test_an_adapter_is_small_and_holds_no_weight_of_the_base(tiny_encoder: Path, tmp_path: Path) -> None:
    learner = prepared(tiny_encoder, task_of("classify_text"), "lora", labelled(6))
    learner.save(tmp_path)
    names = [name for file in tmp_path.glob("*.safetensors") for name in load_file(file)]
    assert names
    assert all("lora_" in name or name in ("weight", "bias") for name in names)


def plain(layer: LoraLinear, x: torch.Tensor) -> torch.Tensor:
    """The formula as the paper writes it, left to autograd."""
    return layer.base(x) + layer.scale * (x @ layer.lora_A.T) @ layer.lora_B.T  # type: ignore[no-any-return]


@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_fused_layer_is_the_plain_formula_with_its_gradients(
    bias: bool, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, fused = [], adapters._FusedLora.apply
    monkeypatch.setattr(adapters._FusedLora, "apply", lambda *given: calls.append(1) or fused(*given))
    torch.manual_seed(0)
    base = nn.Linear(6, 4, bias=bias).requires_grad_(False)
    layer = LoraLinear(base, rank=3, scale=0.7, dropout=0.0, generator=torch.Generator().manual_seed(1))
    nn.init.normal_(layer.lora_B)
    weights = torch.randn(*shape[:-1], 4)
    x = torch.randn(shape, requires_grad=True)
    y = layer(x)
    assert calls == [1]
    assert torch.allclose(y, plain(layer, x), rtol=1e-6, atol=1e-6)
    inputs = [x, layer.lora_A, layer.lora_B]
    found = torch.autograd.grad((y * weights).sum(), inputs)
    wanted = torch.autograd.grad((plain(layer, x) * weights).sum(), inputs)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    # The first layer of a model gets an input without a gradient, and a trial may hold one factor.
    layer.lora_A.requires_grad_(False)
    (only,) = torch.autograd.grad((layer(x.detach()) * weights).sum(), [layer.lora_B])
    assert torch.allclose(only, wanted[2], rtol=1e-5, atol=1e-6)


def test_with_half_the_digits_the_fused_layer_is_the_plain_formula_too_and_its_gradients_have_all_digits() -> None:
    torch.manual_seed(0)
    base = nn.Linear(64, 32).requires_grad_(False)
    layer = LoraLinear(base, rank=4, scale=0.7, dropout=0.0, generator=torch.Generator().manual_seed(1))
    nn.init.normal_(layer.lora_B, std=0.1)
    x, above = torch.randn(9, 64, requires_grad=True), torch.randn(9, 32)
    inputs = [x, layer.lora_A, layer.lora_B]
    wanted = torch.autograd.grad((plain(layer, x) * above).sum(), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    found = torch.autograd.grad((y.float() * above).sum(), inputs)
    assert torch.allclose(y.float(), plain(layer, x), rtol=0.02, atol=0.05)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).norm() / theirs.norm()) < 0.01


def test_the_fused_layer_leaves_what_it_was_given_as_it_was() -> None:
    """It adds into its own output in place; a gradient that is used twice must not be added to either."""
    base = nn.Linear(6, 4).requires_grad_(False)
    layer = LoraLinear(base, rank=3, scale=0.7, dropout=0.0, generator=torch.Generator().manual_seed(1))
    nn.init.normal_(layer.lora_B)
    x = torch.randn(5, 6, requires_grad=True)
    before, above = x.detach().clone(), torch.randn(5, 4)
    copy = above.clone()
    y = layer(x)
    first = torch.autograd.grad(y, [x, layer.lora_A, layer.lora_B], above, retain_graph=True)
    second = torch.autograd.grad(y, [x, layer.lora_A, layer.lora_B], above)
    assert torch.equal(x.detach(), before)
    assert torch.equal(above, copy)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("why", ["dropout", "the base is trained", "stored the other way round"])
def test_where_it_cannot_be_fused_the_plain_formula_is_computed(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.pytorch_utils import Conv1D

    def never(*given: Any) -> None:
        raise AssertionError("fused")

    monkeypatch.setattr(adapters._FusedLora, "apply", never)
    torch.manual_seed(0)
    turned = why == "stored the other way round"
    base = (Conv1D(4, 6) if turned else nn.Linear(6, 4)).requires_grad_(why == "the base is trained")
    layer = LoraLinear(base, 3, 0.7, 0.5 if why == "dropout" else 0.0, torch.Generator().manual_seed(1))
    nn.init.normal_(layer.lora_B)
    x = torch.randn(5, 6)
    if why == "dropout":
        torch.manual_seed(2)
        found = layer(x)
        torch.manual_seed(2)
        dropped = nn.functional.dropout(x, 0.5)
        assert torch.allclose(found, base(x) + 0.7 * (dropped @ layer.lora_A.T) @ layer.lora_B.T, atol=1e-6)
    else:
        assert torch.allclose(layer(x), plain(layer, x), atol=1e-6)
