"""Rows laid in one line give what transformers gives to each row alone: vectors and gradients, in every family."""

# Shapes: N tokens in line, P wanted tokens, T tokens of a row, D hidden

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from migaki.models import flat
from migaki.models.base import quiet_transformers
from migaki.models.flat import FlatDecoder, FlatEncoder, Line, filled_length, flat_decoder, flat_encoder
from migaki.tasks.body import Body

Rows = Sequence[Sequence[int]]

N_BLOCKS = 3
_COMMON: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": N_BLOCKS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LLAMA_LIKE = {**_COMMON, "num_key_value_heads": 2}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

DECODERS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA_LIKE,
    # Norms of queries and keys, and heads of a width of their own.
    "qwen3": {**_LLAMA_LIKE, "head_dim": 12},
    "mistral": {**_LLAMA_LIKE, "sliding_window": None},
    # Queries, keys and values with a bias.
    "qwen2": _LLAMA_LIKE,
}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {**_COMMON, **_NO_DROPOUT},
    # Positions are counted from the number behind the padding token's.
    "roberta": {**_COMMON, **_NO_DROPOUT, "pad_token_id": 1, "bos_token_id": 0},
    "xlm-roberta": {**_COMMON, **_NO_DROPOUT, "pad_token_id": 3},
}
FAMILIES = {**DECODERS, **ENCODERS}

PREFIX = (7, 8, 9, 10, 11, 12, 13, 14)
LAYOUTS: dict[str, tuple[Rows, int]] = {
    "mixed lengths": (((5, 6, 7, 8, 9, 10, 11), (12, 13), (20, 21, 22, 23, 24), (30,)), 0),
    "equal lengths": (((5, 6, 7), (8, 9, 10), (5, 6, 11)), 0),
    "one row": (((5, 6, 7, 8, 9),), 0),
    "shared prefix": (((*PREFIX, 20, 21, 22), (*PREFIX, 23), (*PREFIX, 24, 25)), len(PREFIX)),
    "shared prefix, equal lengths": (((*PREFIX, 20, 21), (*PREFIX, 23, 24)), len(PREFIX)),
}
CASES = [
    pytest.param(family, layout, id=f"{family}, {layout}")
    for family, layout in itertools.product(FAMILIES, LAYOUTS)
    if family in DECODERS or "prefix" not in layout
]
SOME = [case for case in CASES if case.values[1] in ("mixed lengths", "shared prefix")]


def body_of(family: str, seed: int = 0, **settings: Any) -> Any:
    """Random weights, four times as large as usual, and no norm or bias at its tidy start of one or zero."""
    quiet_transformers()
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **{**FAMILIES[family], **settings})
    model: Any = AutoModel.from_config(config).eval()
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.mul_(4)
    return model


def flat_of(body: Any) -> FlatDecoder | FlatEncoder:
    found = flat_encoder(body) or flat_decoder(body)
    assert found is not None
    return found


def alone(body: Any, row: Sequence[int], block: int | None = None) -> torch.Tensor:
    """(T, D) of one row, without padding; with `block`, what enters it."""
    out = body(input_ids=torch.tensor([row]), output_hidden_states=True)
    return (out.last_hidden_state if block is None else out.hidden_states[block])[0]  # type: ignore[no-any-return]


def expected(body: Any, rows: Rows, shared: int, block: int | None = None) -> torch.Tensor:
    """(N, D): the prefix once, then what each row has behind it."""
    vectors = [alone(body, row, block) for row in rows]
    return torch.cat([vectors[0][:shared], *(h_TD[shared:] for h_TD in vectors)])


def hidden(found: FlatDecoder | FlatEncoder, line: Line, wanted: Sequence[int] | None = None) -> torch.Tensor:
    return found.hidden(line, found.embed(line), None if wanted is None else torch.tensor(wanted))


def line_of(layout: str) -> tuple[Rows, int, Line]:
    rows, shared = LAYOUTS[layout]
    return rows, shared, Line.of(rows, torch.device("cpu"), shared)


def some_of(line: Line) -> list[int]:
    """The last token of each row and every third one behind the prefix, rising."""
    ends = np.cumsum(line.lengths) + line.shared - 1
    return sorted({*ends.tolist(), *range(line.shared, len(line.ids_N), 3)})


@torch.no_grad()
@pytest.mark.parametrize(("family", "layout"), CASES)
def test_every_vector_is_the_one_of_the_row_alone(family: str, layout: str) -> None:
    body = body_of(family)
    rows, shared, line = line_of(layout)
    found, wanted = hidden(flat_of(body), line), expected(body, rows, shared)
    assert wanted.std() > 0.1
    assert (found - wanted).abs().max() <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize(("family", "layout"), CASES)
def test_only_the_wanted_positions_come_back(family: str, layout: str) -> None:
    body = body_of(family)
    rows, shared, line = line_of(layout)
    places = some_of(line)
    found = hidden(flat_of(body), line, places)
    assert found.shape == (len(places), 32)
    assert (found - expected(body, rows, shared)[places]).abs().max() <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("block", range(N_BLOCKS + 1))
@pytest.mark.parametrize(("family", "layout"), SOME)
def test_it_can_stop_before_any_block_and_go_on_from_there(family: str, layout: str, block: int) -> None:
    """Behind the last block (block 3) only the final norm is left, where there is one."""
    body = body_of(family)
    rows, shared, line = line_of(layout)
    found, places = flat_of(body), some_of(line)
    below = found.hidden(line, found.embed(line), None, last=block)
    # transformers gives what comes out behind the norm in place of what enters a block that is not there.
    if block < N_BLOCKS:
        assert (below - expected(body, rows, shared, block)).abs().max() <= 1e-5
    for wanted in (None, places):
        above = found.hidden(line, below, None if wanted is None else torch.tensor(wanted), first=block)
        whole = expected(body, rows, shared)
        assert (above - (whole if wanted is None else whole[wanted])).abs().max() <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize(("family", "layout"), SOME)
def test_a_change_behind_every_block_reaches_what_it_would_reach_in_the_row_alone(family: str, layout: str) -> None:
    """Every third token of a row is moved, by a tenth more behind each block."""
    body = body_of(family)
    rows, shared, line = line_of(layout)

    def moved(number: int, h_ND: torch.Tensor, positions_N: torch.Tensor) -> torch.Tensor:
        return h_ND + 0.1 * (number + 1) * (positions_N % 3 == 1)[:, None]

    def edit(number: int, h_ND: torch.Tensor, wanted_P: torch.Tensor | None) -> torch.Tensor:
        places_M = line.filled(line.positions_N)
        return moved(number, h_ND, places_M if wanted_P is None else places_M[wanted_P])

    found, places = flat_of(body), some_of(line)
    unmoved = hidden(found, line)
    whole = found.hidden(line, found.embed(line), None, edit=edit)
    some = found.hidden(line, found.embed(line), torch.tensor(places), edit=edit)
    for number, block in enumerate(found.layers):
        block.register_forward_hook(
            lambda module, given, out, number=number: moved(number, out[0], torch.arange(out.shape[1]))[None]
        )
    wanted = expected(body, rows, shared)
    assert (whole - unmoved).abs().max() > 1e-2
    assert (whole - wanted).abs().max() <= 1e-5
    assert (some - wanted[places]).abs().max() <= 1e-5


def gradients_of(body: Any, vectors: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradient of a fixed random sum of the vectors, which no symmetry of a norm can hide from."""
    body.zero_grad()
    weights = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(3))
    (vectors * weights).sum().backward()
    return {name: p.grad.clone() for name, p in body.named_parameters() if p.grad is not None}


def assert_close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float = 1e-4) -> None:
    """By name, in the L2 norm; a gradient that is nothing but rounding is held against the largest one."""
    assert found.keys() == wanted.keys()
    largest = max(float(gradient.norm()) for gradient in wanted.values())
    for name, gradient in wanted.items():
        gap = float((found[name] - gradient).norm())
        assert gap <= tolerance * max(float(gradient.norm()), 1e-3 * largest), name


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("family", "layout"), SOME)
def test_the_gradient_of_every_parameter_is_the_one_of_the_rows_alone(
    family: str, layout: str, recompute: bool
) -> None:
    body = body_of(family)
    rows, shared, line = line_of(layout)
    found, places = flat_of(body), some_of(line)
    found.recompute = recompute
    wanted = gradients_of(body, expected(body, rows, shared)[places])
    assert len(wanted) == sum(1 for _ in body.parameters())
    assert_close(gradients_of(body, hidden(found, line, places)), wanted)
    assert_close(gradients_of(body, hidden(found, line)), gradients_of(body, expected(body, rows, shared)))


@pytest.mark.parametrize("which", ["first", "last"])
@pytest.mark.parametrize("layout", ["mixed lengths", "equal lengths", "one row"])
@pytest.mark.parametrize("family", ENCODERS)
def test_one_token_of_each_row_is_asked_for_alone(
    family: str, layout: str, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = body_of(family)
    rows, shared, line = line_of(layout)
    ends = np.cumsum(line.lengths)
    places = [int(end) - n if which == "first" else int(end) - 1 for end, n in zip(ends, line.lengths, strict=True)]
    wanted = gradients_of(body, expected(body, rows, shared)[places])
    asked: list[int] = []
    for layer in body.encoder.layer:
        query = layer.attention.self.query
        query.register_forward_hook(lambda _module, inputs, _out: asked.append(len(inputs[0])))
    found = gradients_of(body, hidden(flat_of(body), line, places))
    assert_close(found, wanted)
    assert asked == [filled_length(len(line.ids_N))] * (N_BLOCKS - 1) + [len(rows)]


def test_as_many_tokens_as_rows_are_not_taken_for_one_of_each() -> None:
    line = line_of("mixed lengths")[2]  # rows of 7, 2, 5 and 1
    assert line.has_one_in_each_row(torch.tensor([0, 8, 9, 14]))
    assert not line.has_one_in_each_row(torch.tensor([0, 1, 9, 14]))
    assert not line.has_one_in_each_row(torch.tensor([0, 8, 9]))


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_recomputing_runs_each_block_twice_and_draws_the_same_dropout(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropout = {"attention_dropout": 0.5} if family == "llama" else {"hidden_dropout_prob": 0.5}
    body = body_of(family, **dropout).train()
    found, line = flat_of(body), line_of("mixed lengths")[2]
    calls, block = [], type(found)._block

    def counted(self: Any, *arguments: Any) -> torch.Tensor:
        calls.append(1)
        return block(self, *arguments)

    monkeypatch.setattr(type(found), "_block", counted)
    gradients = []
    for recompute in (False, True):
        found.recompute = recompute
        torch.manual_seed(1)
        gradients.append(gradients_of(body, hidden(found, line)))
    assert len(calls) == N_BLOCKS + 2 * N_BLOCKS
    assert_close(*gradients, tolerance=1e-6)
    torch.manual_seed(2)
    other = gradients_of(body, hidden(found, line))
    assert any(not torch.equal(other[name], gradients[0][name]) for name in other), "dropout does nothing here"


def test_the_last_block_feeds_forward_the_wanted_tokens_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    feed = flat._feed_forward

    def counted(mlp: Any, x_ND: torch.Tensor) -> torch.Tensor:
        seen.append(len(x_ND))
        return feed(mlp, x_ND)

    monkeypatch.setattr(flat, "_feed_forward", counted)
    line = line_of("mixed lengths")[2]
    hidden(flat_of(body_of("llama")), line, [2, 14])
    assert seen == [32, 32, 2]


@pytest.mark.parametrize("family", DECODERS)
def test_norms_and_feed_forward_are_the_ones_that_remember_little(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that is never called would compute nothing wrong, only more."""
    called: list[str] = []

    def watched(name: str) -> Any:
        plain = getattr(flat, name).apply

        def apply(*arguments: Any) -> Any:
            called.append(name)
            return plain(*arguments)

        return type(name, (), {"apply": staticmethod(apply)})

    for name in ("_RmsNorm", "_SwiGlu"):
        monkeypatch.setattr(flat, name, watched(name))
    hidden(flat_of(body_of(family)), line_of("mixed lengths")[2])
    assert called == [*["_RmsNorm", "_RmsNorm", "_SwiGlu"] * N_BLOCKS, "_RmsNorm"]


def test_a_shared_prefix_stands_in_the_line_once() -> None:
    """8 + 3 + 1 + 2 tokens; the rows' own begin at 8, 11 and 12, at position 8 each."""
    _, _, line = line_of("shared prefix")
    assert line.ids_N.tolist() == [*PREFIX, 20, 21, 22, 23, 24, 25]
    assert line.positions_N.tolist() == [*range(8), 8, 9, 10, 8, 8, 9]
    assert line.starts() == [8, 11, 12]


def test_the_grid_and_back_is_the_line_and_padding_is_zero() -> None:
    _, _, line = line_of("mixed lengths")
    x_ND = torch.randn(15, 4)
    grid_BTD = line.grid(x_ND)
    assert grid_BTD.shape == (4, 7, 4)
    assert torch.equal(line.gathered(grid_BTD), line.filled(x_ND))
    padding = line.padding(torch.device("cpu"))
    assert padding is not None
    assert torch.all(grid_BTD[~padding[:, 0, 0]] == 0)
    assert padding.sum() == 15


WITHOUT: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("decoder", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 60}),
    "gemma2": ("decoder", {**_LLAMA_LIKE, "head_dim": 8}),
    "mistral": ("decoder", {**_LLAMA_LIKE, "sliding_window": 16}),
    "qwen2": ("decoder", {**_LLAMA_LIKE, "use_sliding_window": True, "sliding_window": 16}),
    "phi3": ("decoder", _LLAMA_LIKE),
    "cohere": ("decoder", _LLAMA_LIKE),
    "olmo2": ("decoder", _LLAMA_LIKE),
    "bert": ("decoder", {**_COMMON, "is_decoder": True}),
    "roberta": ("encoder", {**_COMMON, "chunk_size_feed_forward": 4}),
    "electra": ("encoder", {**_COMMON, "embedding_size": 32}),
    "distilbert": ("encoder", {"vocab_size": 60, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}),
}


def other(family: str, role: str, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **settings)
    return (AutoModelForCausalLM if role == "decoder" else AutoModel).from_config(config).eval()


@pytest.mark.parametrize("family", WITHOUT)
def test_a_family_of_another_layout_has_no_flat_form(family: str) -> None:
    model = other(family, *WITHOUT[family])
    assert flat_encoder(model) is None
    assert flat_decoder(model) is None
    assert not Body(model, 0).use_flat


def test_a_decoder_of_bert_is_not_taken_for_an_encoder() -> None:
    assert flat_encoder(body_of("bert", is_decoder=True)) is None


ALIKE: dict[str, dict[str, Any]] = {
    # Scales what each block adds.
    "granite": {**_LLAMA_LIKE, "residual_multiplier": 0.5},
    # Leaves the rotation out of every second block.
    "smollm3": {**_LLAMA_LIKE, "no_rope_layer_interval": 2},
    # Turns neighbouring numbers instead of halves.
    "helium": {**_LLAMA_LIKE, "head_dim": 8},
    # Experts want rows, not a line.
    "qwen3_moe": {**_LLAMA_LIKE, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    # Turns only a part of each head.
    "glm": {**_LLAMA_LIKE, "head_dim": 8},
}


@torch.no_grad()
@pytest.mark.parametrize("family", ALIKE)
def test_a_family_that_only_looks_alike_is_computed_as_transformers_does(family: str) -> None:
    """A saved model is asked without ever being trained again, so this cannot wait for a training to find out."""
    model = other(family, "decoder", ALIKE[family])
    assert flat_decoder(model) is not None
    body = Body(model, 0)
    assert not body.use_flat
    rows = ((5, 6, 7, 8, 9), (10, 11, 12))
    found = body.at(rows, [np.array([1, 4]), np.array([2])])
    wanted = torch.cat([alone(model.base_model, rows[0])[[1, 4]], alone(model.base_model, rows[1])[[2]]])
    assert (found - wanted).abs().max() <= 1e-5


@pytest.mark.parametrize("error", [TypeError, AttributeError, IndexError, KeyError, AssertionError, ImportError])
def test_a_mistake_in_the_flat_way_is_seen_and_not_taken_for_another_layout(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: Any) -> torch.Tensor:
        raise error("a mistake")

    monkeypatch.setattr(FlatDecoder, "_block", mistaken)
    with pytest.raises(error, match="a mistake"):
        Body(body_of("llama"), 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_with_a_flat_form_uses_it(family: str) -> None:
    assert Body(body_of(family), 0).use_flat


@pytest.mark.parametrize(("family", "layout"), [case for case in SOME if case.values[0] in ("llama", "bert")])
def test_a_line_is_filled_so_that_products_have_few_sizes_and_the_fillers_reach_nothing(
    family: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fillers of a million in place of zero: no vector and no gradient knows of them."""
    body = body_of(family)
    _, _, line = line_of(layout)
    sizes: set[int] = set()
    for module in body.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _module, _inputs, out: sizes.add(len(out)))
    wanted = hidden(flat_of(body), line)
    gradients = gradients_of(body, wanted)
    assert sizes == {32}

    def far(self: Line, x_N: torch.Tensor) -> torch.Tensor:
        if not x_N.is_floating_point():
            return plain(self, x_N)
        return torch.cat([x_N, x_N.new_full((filled_length(len(x_N)) - len(x_N), *x_N.shape[1:]), 1e6)])

    plain = Line.filled
    monkeypatch.setattr(Line, "filled", far)
    found = hidden(flat_of(body), line)
    assert torch.equal(found, wanted)
    assert_close(gradients_of(body, found), gradients, tolerance=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_patches_see_each_other_in_bfloat16_as_in_float32_but_for_rounding(dropout):
    """2 pictures, 3 heads, 11 patches of width 8. bfloat16 has 8 bits: of what comes out, which is at most about 3, and of the
    gradients the difference stays below a fiftieth. With dropout both take torch's own way and draw the same numbers."""
    draw = torch.Generator().manual_seed(0)
    given = [torch.randn(2, 11, 3, 8, generator=draw) for _ in range(4)]
    found = []
    for way, narrow in ((flat.attention, False), (flat.attention_among_all, True)):
        q, k, v = (x.clone().requires_grad_() for x in given[:3])
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            out = way(*(x.transpose(1, 2) for x in (q, k, v)), dropout_p=dropout, scale=8**-0.5)
        (out.transpose(1, 2).float() * given[3]).sum().backward()
        found.append((out.float(), q.grad, k.grad, v.grad))
        assert out.dtype == (torch.bfloat16 if narrow and not dropout else torch.float32)
    for exact, near in zip(*found, strict=True):
        assert (near - exact).abs().max() < 0.02 * exact.abs().max()
