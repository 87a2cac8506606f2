"""ReFT: the edit is the paper's formula, at the right tokens, whichever way the model is computed and padded."""

# Shapes: U units, N tokens in line, B rows, T tokens, D hidden, R rank, V vocabulary

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import migaki
from architectures import DECODERS, decoder
from learners import base_from, conversations, difference, prepared, rows_of, stir, task_of, trained
from migaki.core.errors import DamagedError, ModelError, RecipeError
from migaki.core.parts import Task
from migaki.core.types import Conversation, Place, Row, Turn
from migaki.methods import Lora, Reft
from migaki.methods.interventions import Interventions, prompt_marks
from migaki.models.base import Base
from migaki.models.flat import Line
from migaki.training.loop import accumulate_gradients
from migaki.training.plan import pad

CPU = torch.device("cpu")
FORMS = ("loreft", "noreft", "direft")
KINDS = ("classify_text", "generate")
SETTINGS = [(form, tied) for form in FORMS for tied in (True, False)]
SMALL: dict[str, Any] = {"rank": 3, "first": 3, "last": 2}


def task_for(kind: str) -> Task:
    return task_of(kind, head="random") if kind == "classify_text" else task_of(kind, max_new_tokens=6)


def folder_for(kind: str, encoder: Path, decoder_folder: Path) -> Path:
    return encoder if kind == "classify_text" else decoder_folder


def learner_for(kind: str, reft: Reft, encoder: Path, decoder_folder: Path, moved: bool = True, n: int = 8) -> Any:
    folder = folder_for(kind, encoder, decoder_folder)
    return prepared(folder, task_for(kind), reft, rows_of(kind, n), moved=moved)


def shaken(learner: Any, size: float = 0.5) -> Any:
    """Edits large enough that an answer written without them is another one."""
    drawn = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in learner.network.edits.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=drawn))
    return learner


# The numbers of the paper


@pytest.mark.parametrize(
    ("n_blocks", "width", "settings", "wanted"),
    [
        pytest.param(32, 4096, {"rank": 8}, 2_097_408, id="LLaMA-7B, 0.031 %"),
        pytest.param(40, 5120, {"rank": 8}, 3_277_120, id="LLaMA-13B, 0.025 %"),
        pytest.param(4, 4096, {"rank": 4, "tied": False}, 262_176, id="7B, four blocks, 0.0039 %"),
        pytest.param(4, 4096, {"rank": 2, "tied": False}, 131_088, id="7B, half the rank"),
        pytest.param(12, 768, {"rank": 1, "last": 0}, 18_444, id="RoBERTa-base, 0.015 %"),
        pytest.param(24, 1024, {"rank": 1, "last": 0, "tied": False}, 49_176, id="RoBERTa-large, 0.014 %"),
        pytest.param(30, 576, {"rank": 8}, 276_720, id="SmolLM2, all blocks"),
        pytest.param(4, 576, {"rank": 4, "tied": False, "first": 5, "last": 5}, 36_896, id="SmolLM2, four blocks"),
    ],
)
def test_the_number_of_trained_parameters_is_the_papers(
    n_blocks: int, width: int, settings: dict[str, Any], wanted: int
) -> None:
    """Each unit has 2 x rank x width + rank; nothing as large as width x width is kept beside them."""
    edits = Interventions(Reft(form="noreft", **settings), range(n_blocks), width, 0, CPU)
    assert sum(p.numel() for p in edits.parameters()) == wanted
    assert list(edits.buffers()) == []


def test_the_defaults_train_less_than_a_tenth_of_what_lora_of_rank_8_does(
    tiny_encoder: Path, tiny_decoder: Path
) -> None:
    for kind in KINDS:
        folder = folder_for(kind, tiny_encoder, tiny_decoder)
        counts = []
        for method in (Reft(), Lora(rank=8)):
            learner = method.prepare(base_from(folder, task_for(kind).base_role), task_for(kind), rows_of(kind, 6), 0)
            counts.append(sum(p.numel() for name, p in trained(learner).items() if not name.startswith("head.")))
        assert counts[0] == 2 * (2 * 4 * 32 + 4)
        assert counts[0] < counts[1] / 10


@pytest.mark.parametrize(
    ("prompt", "first", "last", "wanted"),
    [
        (1, 7, 7, (0, 1)),
        (2, 7, 7, (1, 1)),
        (5, 7, 7, (2, 3)),
        (9, 7, 7, (4, 5)),
        (13, 7, 7, (6, 7)),
        (14, 7, 7, (7, 7)),
        (40, 7, 7, (7, 7)),
        (2, 3, 0, (2, 0)),
        (1, 0, 1, (0, 1)),
        (3, 11, 1, (1, 1)),
        (0, 7, 7, (0, 0)),
    ],
)
def test_a_short_prompt_is_divided_and_no_token_is_edited_twice(
    prompt: int, first: int, last: int, wanted: tuple[int, int]
) -> None:
    marks_T = prompt_marks(prompt, prompt + 4, first, last)
    assert marks_T.tolist() == [1] * wanted[0] + [0] * (prompt - sum(wanted)) + [2] * wanted[1] + [0] * 4


def test_all_tokens_of_the_prompt_may_be_edited_and_none_behind_it() -> None:
    assert prompt_marks(3, 5, "all", 7).tolist() == [1, 1, 1, 0, 0]


@pytest.mark.parametrize(("pooling", "wanted"), [("mean", ("all", 0)), ("cls", (7, 7))])
def test_where_the_mean_of_all_tokens_is_judged_all_are_edited_unless_the_recipe_says_otherwise(
    pooling: Any, wanted: tuple[Any, int], tiny_encoder: Path
) -> None:
    for reft, found in ((Reft(), wanted), (Reft(first=2, last=1), (2, 1))):
        base, task = base_from(tiny_encoder, "encoder"), task_of("classify_text", pooling=pooling)
        edits = reft.prepare(base, task, rows_of("classify_text", 8), 0).network.edits
        assert (edits.first, edits.last) == found


def test_before_an_answer_only_the_ends_of_the_prompt_are_edited(tiny_encoder: Path, tiny_decoder: Path) -> None:
    edits = learner_for("generate", Reft(), tiny_encoder, tiny_decoder).network.edits
    assert (edits.first, edits.last) == (7, 7)


# The formula, against a computation of its own


def orthonormal(a_RD: torch.Tensor) -> torch.Tensor:
    """Gram-Schmidt, row by row."""
    rows: list[torch.Tensor] = []
    for row_D in a_RD:
        for other_D in rows:
            row_D = row_D - (row_D @ other_D) * other_D
        rows.append(row_D / row_D.norm())
    return torch.stack(rows)


class Dense:
    """The paper's formulas at every token, kept where a token is to be edited: hooks on a model of its own."""

    def __init__(self, base: Any, learner: Any) -> None:
        edits, self.network = learner.network.edits, learner.network
        self.reft: Reft = edits.reft
        self.backbone = base.model
        self.leaves = {name: p.detach().clone().requires_grad_(True) for name, p in trained(learner).items()}
        self.numbers = {unit: i for i, unit in enumerate(edits.units)}
        self.first_T = self.last_T = torch.zeros(0)
        encoder = hasattr(self.backbone, "encoder")
        blocks = self.backbone.encoder.layer if encoder else self.backbone.model.layers
        for number, block in enumerate(blocks):
            block.register_forward_hook(lambda module, given, out, number=number: self.changed(number, out))

    def changed(self, block: int, h_1TD: torch.Tensor) -> torch.Tensor:
        assert isinstance(h_1TD, torch.Tensor)
        both = ((("all", self.first_T + self.last_T),) if self.reft.tied else
                (("first", self.first_T), ("last", self.last_T)))  # fmt: skip
        change_1TD = torch.zeros_like(h_1TD)
        for place, mask_T in both:
            at = self.numbers.get((block, place))
            if at is None:
                continue
            a_RD, w_RD, b_R = (self.leaves[f"edits.{name}"][at] for name in ("a_URD", "w_URD", "b_UR"))
            if self.reft.form == "loreft":
                r_RD = orthonormal(a_RD)
                edit_1TD = (h_1TD @ w_RD.T + b_R - h_1TD @ r_RD.T) @ r_RD
            elif self.reft.form == "noreft":
                edit_1TD = (h_1TD @ w_RD.T + b_R - h_1TD @ a_RD.T) @ a_RD
            else:
                edit_1TD = (h_1TD @ w_RD.T + b_R) @ a_RD
            change_1TD = change_1TD + mask_T[:, None] * edit_1TD
        return h_1TD + change_1TD

    def mark(self, n_prompt: int, n_tokens: int) -> None:
        first, last = (n_prompt, 0) if self.reft.first == "all" else (self.reft.first, self.reft.last)
        if n_prompt < first + last:
            first, last = min(first, n_prompt // 2), min(last, (n_prompt + 1) // 2)
        self.first_T = torch.tensor([float(i < first) for i in range(n_tokens)])
        self.last_T = torch.tensor([float(n_prompt - last <= i < n_prompt) for i in range(n_tokens)])

    def loss(self, rows: Sequence[Row]) -> tuple[torch.Tensor, float]:
        """Sum over the targets and their number, one row at a time."""
        total, n_targets = torch.zeros(()), 0
        for row in rows:
            if hasattr(self.network, "head"):
                ids_1T = torch.tensor([self.network.tokenizer(row.content.text)["input_ids"]])
                self.mark(ids_1T.shape[1], ids_1T.shape[1])
                pooled_1D = self.backbone(input_ids=ids_1T).last_hidden_state.mean(1)
                logits_1C = pooled_1D @ self.leaves["head.weight"].T + self.leaves["head.bias"]
                target = torch.tensor([self.network.labels.index(row.content.label)])
                total, n_targets = total + F.cross_entropy(logits_1C, target), n_targets + 1
            else:
                rendered = self.network.chat.render(row.content)
                labels_T = torch.tensor(rendered.labels)
                at = (labels_T != -100).nonzero()[:, 0]
                self.mark(int(at[0]), len(labels_T))
                logits_TV = self.backbone(input_ids=torch.tensor([rendered.ids])).logits[0]
                total = total + F.cross_entropy(logits_TV[at - 1], labels_T[at], reduction="sum")
                n_targets += len(at)
        return total, n_targets


@pytest.mark.parametrize(
    ("form", "tied", "first"), [*((form, tied, SMALL["first"]) for form, tied in SETTINGS), ("loreft", True, "all")]
)
@pytest.mark.parametrize("kind", KINDS)
def test_twenty_steps_from_the_papers_start_are_those_of_the_dense_formula(
    kind: str, form: Any, tied: bool, first: Any, tiny_encoder: Path, tiny_decoder: Path
) -> None:
    """Loss and gradients of the first step, then the losses of twenty steps of AdamW."""
    reft = Reft(form=form, tied=tied, init="paper", **{**SMALL, "first": first})
    learner = learner_for(kind, reft, tiny_encoder, tiny_decoder, moved=False)
    assert learner.network.body.use_flat
    rows = rows_of(kind, 3)
    dense = Dense(base_from(folder_for(kind, tiny_encoder, tiny_decoder), task_for(kind).base_role), learner)
    examples, own = learner.encode(rows), trained(learner)
    # Where a gradient is almost nothing, AdamW would divide rounding by itself.
    settings: dict[str, Any] = {"lr": 5e-3, "weight_decay": 0.01, "eps": 1e-5}
    optimizers = [torch.optim.AdamW(of.values(), **settings) for of in (own, dense.leaves)]
    learner.train_mode(0.0)
    losses = []
    for step in range(20):
        for optimizer in optimizers:
            optimizer.zero_grad()
        found = accumulate_gradients(learner, examples, 0.0)
        wanted, weight = dense.loss(rows.rows)
        (wanted / weight).backward()
        assert found == pytest.approx(float(wanted.detach()), rel=1e-5), step
        losses.append(found / weight)
        if step == 0:
            both: list[dict[str, Any]] = [{name: p.grad for name, p in of.items()} for of in (own, dense.leaves)]
            assert difference(*both) <= 1e-5
            assert all(float(gradient.norm()) > 0 for gradient in both[1].values())
        for optimizer in optimizers:
            optimizer.step()
    assert losses[-1] < 0.997 * losses[0]
    ends = [{name: p.detach() for name, p in of.items()} for of in (own, dense.leaves)]
    assert difference(*ends) <= 1e-4


# Where training begins, and what an edit can do


@pytest.mark.parametrize(("form", "tied"), SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_edit_is_none_to_the_last_bit(
    kind: str, form: Any, tied: bool, tiny_encoder: Path, tiny_decoder: Path
) -> None:
    rows = rows_of(kind, 8)
    learner = learner_for(kind, Reft(form=form, tied=tied), tiny_encoder, tiny_decoder, moved=False)
    plain: Any = task_for(kind).network(
        base_from(folder_for(kind, tiny_encoder, tiny_decoder), task_for(kind).base_role), rows, 0
    )
    examples = learner.encode(rows)
    plain.body.share_prefix = learner.network.body.share_prefix = False
    for use_flat in (True, False):
        learner.network.body.use_flat = plain.body.use_flat = use_flat
        with torch.no_grad():
            assert torch.equal(learner.network.eval()(examples), plain.eval()(examples))


def one_edit(form: Any, **settings: Any) -> tuple[Interventions, torch.Tensor, torch.Tensor]:
    """Edits of two blocks 16 wide, eight hidden vectors, and what block 1 makes of them: only tokens 0, 1 and 5 change."""
    edits = Interventions(Reft(form=form, init="paper", rank=3, **settings), (0, 1), 16, 1, CPU)
    h_ND = torch.randn(8, 16, generator=torch.Generator().manual_seed(2))
    marks_N = np.array([1, 1, 0, 0, 0, 2, 0, 0], dtype=np.int8)
    return edits, h_ND, edits.over(marks_N, CPU)(1, h_ND, None)


def test_an_edit_moves_a_vector_inside_the_rows_of_r_and_to_w_h_plus_b() -> None:
    edits, h_ND, out_ND = one_edit("loreft")
    r_RD, w_RD, b_R = (of.detach()[1] for of in (edits.rotations(), edits.w_URD, edits.b_UR))
    change_ND = (out_ND - h_ND).detach()
    assert torch.equal(change_ND.abs().sum(1) > 0, torch.tensor([1, 1, 0, 0, 0, 1, 0, 0]).bool())
    assert float((change_ND - change_ND @ r_RD.T @ r_RD).abs().max()) <= 1e-6
    edited = [0, 1, 5]
    assert torch.allclose(out_ND[edited] @ r_RD.T, h_ND[edited] @ w_RD.T + b_R, atol=1e-6)


def test_each_end_of_the_prompt_has_its_own_edit_unless_tied() -> None:
    for tied in (True, False):
        edits, h_ND, out_ND = one_edit("loreft", tied=tied)
        assert edits.units == [(0, "all"), (1, "all")] or edits.units == [
            (0, "first"), (0, "last"), (1, "first"), (1, "last")
        ]  # fmt: skip
        with torch.no_grad():
            edits.b_UR[-1] += 1
        marks_N = np.array([1, 1, 0, 0, 0, 2, 0, 0], dtype=np.int8)
        moved_N = (edits.over(marks_N, CPU)(1, h_ND, None) - out_ND).abs().sum(1) > 1e-3
        assert moved_N.nonzero()[:, 0].tolist() == ([0, 1, 5] if tied else [5])


def test_an_edit_is_computed_in_float32_whatever_the_format_around_it() -> None:
    edits, h_ND, out_ND = one_edit("loreft")
    marks_N = np.array([1, 1, 0, 0, 0, 2, 0, 0], dtype=np.int8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(edits.over(marks_N, CPU)(1, h_ND, None), out_ND)
        narrow_ND = edits.over(marks_N, CPU)(1, h_ND.bfloat16(), None)
    assert narrow_ND.dtype == torch.bfloat16
    assert torch.allclose(narrow_ND.float(), out_ND, atol=0.05)


def test_dropout_falls_on_the_edit_and_never_on_the_vector() -> None:
    edits, h_ND, _ = one_edit("direft", dropout=0.5)
    quiet_ND = edits.eval().over(np.ones(8, dtype=np.int8), CPU)(1, h_ND, None) - h_ND
    drawn_ND = edits.train().over(np.ones(8, dtype=np.int8), CPU)(1, h_ND, None) - h_ND
    kept_ND = drawn_ND.abs() > 1e-6
    assert torch.allclose(drawn_ND[kept_ND], 2 * quiet_ND[kept_ND], atol=1e-5)
    assert 0.3 < float(kept_ND.float().mean()) < 0.7


def test_r_keeps_orthonormal_rows_whatever_adamw_and_decay_do_to_what_it_is_made_of() -> None:
    """200 steps of AdamW with weight decay, in bfloat16 autocast; the size of R is the root of its rank all the way."""
    edits = Interventions(Reft(rank=8), (0, 1), 64, 0, CPU)
    start_URD = edits.rotations().detach()
    optimizer = torch.optim.AdamW(edits.parameters(), lr=4e-3, weight_decay=0.1)
    drawn = torch.Generator().manual_seed(0)
    h_ND, goal_ND = (torch.randn(40, 64, generator=drawn) for _ in range(2))
    marks_N = np.ones(40, dtype=np.int8)
    for _ in range(200):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            edit = edits.over(marks_N, CPU)
            loss = (edit(1, edit(0, h_ND, None), None) - goal_ND).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        r_URD = edits.rotations().detach()
        assert float((r_URD @ r_URD.mT - torch.eye(8)).abs().max()) < 1e-5
        assert float(r_URD[0].norm()) == pytest.approx(8**0.5, rel=1e-5)
    assert float((r_URD - start_URD).norm()) > 0.5, "R was never moved"


def test_weight_decay_leaves_the_edits_alone_and_not_the_head(tiny_encoder: Path, tiny_decoder: Path) -> None:
    learner = learner_for("classify_text", Reft(), tiny_encoder, tiny_decoder)
    found = {name: group.decays for group in learner.parameter_groups() for name, _ in group.named}
    wanted = {"edits.a_URD": False, "edits.w_URD": False, "edits.b_UR": False, "head.weight": True, "head.bias": False}
    assert found == wanted


# Where the edits fall


def ids_of(*lengths: int) -> list[list[int]]:
    drawn = torch.Generator().manual_seed(4)
    return [torch.randint(5, 90, (n,), generator=drawn).tolist() for n in lengths]


ROWS = ids_of(1, 4, 6, 9, 23)
PROMPTS = [1, 3, 6, 7, 15]


@torch.no_grad()
def vectors(learner: Any, rows: Sequence[Sequence[int]], prompts: Sequence[int]) -> list[torch.Tensor]:
    """Final hidden vectors (T, D) of each row, as the body computes them."""
    learner.network.eval()
    found = learner.network.body.at(rows, [np.arange(len(row)) for row in rows], prompts)
    return list(found.split([len(row) for row in rows]))


def close(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> bool:
    return all(float((a - b).abs().max()) <= 1e-5 for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_together_are_each_row_alone_in_both_ways(
    kind: str, tied: bool, tiny_encoder: Path, tiny_decoder: Path
) -> None:
    learner = shaken(learner_for(kind, Reft(tied=tied, **SMALL), tiny_encoder, tiny_decoder))
    body = learner.network.body
    body.use_flat = False
    alone = [vectors(learner, [row], [n])[0] for row, n in zip(ROWS, PROMPTS, strict=True)]
    assert close(vectors(learner, ROWS, PROMPTS), alone)
    body.use_flat = True
    assert close(vectors(learner, ROWS, PROMPTS), alone)
    body.edits = None
    assert not close(vectors(learner, ROWS, PROMPTS), alone), "the edits do nothing, so this test would see nothing"


def test_padding_on_the_left_is_padding_on_the_right_is_none(tiny_encoder: Path, tiny_decoder: Path) -> None:
    learner = shaken(learner_for("generate", Reft(**SMALL), tiny_encoder, tiny_decoder))
    body = learner.network.body
    alone = [vectors(learner, [row], [n])[0] for row, n in zip(ROWS, PROMPTS, strict=True)]
    for left in (True, False):
        ids_BT, mask_BT = pad(ROWS, 0, CPU, left)
        with torch.no_grad(), body.edited(ROWS, PROMPTS, left):
            found_BTD = learner.network.backbone.model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        assert close([found_BTD[i][mask_BT[i].bool()] for i in range(len(ROWS))], alone)


def test_a_beginning_that_rows_share_is_computed_once_where_their_edits_agree(
    tiny_encoder: Path, tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A beginning of 20 tokens, edits of the first 3 and the last 2 of the prompt."""
    shared: list[int] = []
    plain = Line.of

    def watched(rows: Any, device: Any, n: int = 0) -> Line:
        shared.append(n)
        return plain(rows, device, n)

    monkeypatch.setattr(Line, "of", watched)
    (start,) = ids_of(20)
    rows = [[*start, *rest] for rest in ids_of(9, 4, 7)]
    # Behind it; inside it; of one length for all; too short for all edits in one row; at its very beginning.
    for prompts, wanted in (
        ([25, 23, 24], 20),
        ([25, 15, 24], 13),
        ([12, 12, 12], 11),
        ([25, 4, 24], 0),
        ([2, 3, 4], 0),
    ):
        learner = shaken(learner_for("generate", Reft(tied=False, **SMALL), tiny_encoder, tiny_decoder))
        places = [np.arange(n - 1, len(row)) for row, n in zip(rows, prompts, strict=True)]
        body = learner.network.eval().body
        with torch.no_grad():
            shared.clear()
            found = body.at(rows, places, prompts)
            assert shared == [wanted], prompts
            body.use_flat = False
            alone = [body.at([row], [at], [n]) for row, at, n in zip(rows, places, prompts, strict=True)]
        assert float((found - torch.cat(alone)).abs().max()) <= 1e-5


@pytest.mark.parametrize("use_flat", [True, False])
def test_a_prompt_is_edited_alike_before_an_answer_of_1_and_of_50_tokens(
    use_flat: bool, tiny_encoder: Path, tiny_decoder: Path
) -> None:
    learner = shaken(learner_for("generate", Reft(**SMALL), tiny_encoder, tiny_decoder))
    learner.network.body.use_flat = use_flat
    prompt, answer = ids_of(12, 50)
    short, long = (vectors(learner, [[*prompt, *answer[:n]]], [12])[0] for n in (1, 50))
    assert float((short[:12] - long[:12]).abs().max()) <= 1e-6


@pytest.mark.parametrize("use_flat", [True, False])
def test_before_the_first_edited_token_the_base_speaks(use_flat: bool, tiny_encoder: Path, tiny_decoder: Path) -> None:
    learner = shaken(learner_for("generate", Reft(rank=3, first=0, last=2), tiny_encoder, tiny_decoder))
    body = learner.network.body
    body.use_flat = use_flat
    (row,) = ids_of(12)
    found = vectors(learner, [row], [9])[0]
    # Of rank 0 nothing is left: the same computation without a change.
    learner.network.edits.w_URD.data.copy_(learner.network.edits.rotations())
    learner.network.edits.b_UR.data.zero_()
    base = vectors(learner, [row], [9])[0]
    assert torch.equal(found[:7], base[:7])
    assert float((found[7:] - base[7:]).abs().max(1).values.min()) > 1e-3


@pytest.mark.parametrize("use_flat", [True, False])
def test_behind_the_last_block_only_the_pooled_token_can_be_reached(
    use_flat: bool, tiny_encoder: Path, tiny_decoder: Path
) -> None:
    """Pooled by the first token: an edit of the last block's last tokens changes nothing, one of its first tokens does."""
    rows = rows_of("classify_text", 8)
    logits = []
    for settings in ({"first": 0, "last": 2}, {"first": 1, "last": 0}):
        task = task_of("classify_text", head="random", pooling="cls")
        learner: Any = prepared(tiny_encoder, task, Reft(rank=3, layers=[1], **settings), rows, moved=False)
        learner.network.body.use_flat = use_flat
        with torch.no_grad():
            before = learner.network.eval()(learner.encode(rows))
            after = shaken(learner).network(learner.encode(rows))
        logits.append((before, after))
    assert torch.equal(*logits[0])
    assert not torch.allclose(*logits[1], atol=1e-2)


@pytest.mark.parametrize("family", DECODERS)
def test_every_family_of_decoders_is_edited(family: str, tiny_decoder: Path) -> None:
    """Rows padded together are rows alone, with gradients in every unit; answers written together are those alone."""
    rows = conversations(4)
    learner: Any = Reft(**SMALL).prepare(decoder(family, tiny_decoder), task_for("generate"), rows, 0)
    stir(learner)
    examples = learner.encode(rows)
    learner.train_mode(0.0)
    alone = sum(float(learner.loss([example], 0.0).detach()) for example in examples)
    accumulate_gradients(learner, examples, 0.0)
    assert float(learner.loss(examples, 0.0).detach()) == pytest.approx(alone, rel=1e-5)
    # GPT-2 and its like have the blocks somewhere else, Falcon-H1 gives tuples: an edit that fell nowhere has no gradient.
    gradients = {name: p.grad for name, p in trained(learner).items()}
    assert set(gradients) == {"edits.a_URD", "edits.w_URD", "edits.b_UR"}
    assert all(bool((g.flatten(1).norm(dim=1) > 0).all()) for g in gradients.values())
    network = shaken(learner).network.eval()
    asked = [row.content.turns[:1] for row in rows.rows]
    assert network.answer(asked) == [network.answer([turns])[0] for turns in asked]


# Answers


def watch_logits(network: Any, **settings: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What `generate` returns from now on, as it returns it: ids (B, T) and the logits of each new token (B, new, V)."""
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    plain = network.backbone.generate

    def generate(**given: Any) -> torch.Tensor:
        out = plain(**given, **settings, output_logits=True, return_dict_in_generate=True)
        found.append((out.sequences, torch.stack(out.logits, 1)))
        return out.sequences  # type: ignore[no-any-return]

    network.backbone.generate = generate
    return found


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_answers_with_a_cache_and_padding_are_those_without(
    tied: bool, use_cache: bool, tiny_encoder: Path, tiny_decoder: Path
) -> None:
    """Of several turns only the first prompt is edited, as in training."""
    learner = shaken(learner_for("generate", Reft(tied=tied, **SMALL), tiny_encoder, tiny_decoder), 0.2)
    network = learner.network.eval()
    first = tuple(Turn("user", text) for text in ("my screen", "the order has not arrived", "a"))
    asked = [*((turn,) for turn in first), (first[1], Turn("assistant", "yes no"), first[0])]
    prompts = [network.chat.prompt(turns) for turns in asked]
    ends = [len(network.chat.prompt(turns[:1])) for turns in asked]
    assert len(set(ends)) == 3
    assert len({len(prompt) for prompt in prompts}) == 4
    watched = watch_logits(network, use_cache=use_cache)
    network.answer(asked)
    ((ids_BT, logits_BSV),) = watched
    order = sorted(range(4), key=lambda i: -len(prompts[i]))
    for at, i in enumerate(order):
        # The first token that ends an answer is followed by padding.
        stops = [
            k
            for k, token in enumerate(ids_BT[at].tolist())
            if k >= ids_BT.shape[1] - 6 and token in network.chat.stop_ids
        ]
        n_new = 6 - (ids_BT.shape[1] - 1 - stops[0] if stops else 0)
        row = ids_BT[at, ids_BT.shape[1] - 6 - len(prompts[i]) : ids_BT.shape[1] - 6 + n_new].tolist()
        assert tuple(row[: len(prompts[i])]) == prompts[i]
        for n_prompt, same in ((ends[i], True), (len(prompts[i]), i != 3), (0, False)):
            with torch.no_grad(), network.body.edited([row], [n_prompt]):
                logits_TV = network.backbone(input_ids=torch.tensor([row]), use_cache=False).logits[0]
            gap = float((logits_TV[len(prompts[i]) - 1 : -1] - logits_BSV[at, :n_new]).abs().max())
            assert (gap <= 1e-5) if same else (gap > 1e-3), (i, n_prompt)


def test_the_backbone_by_itself_does_not_guess_where_the_prompt_ends(tiny_encoder: Path, tiny_decoder: Path) -> None:
    learner = learner_for("generate", Reft(), tiny_encoder, tiny_decoder)
    with pytest.raises(RuntimeError, match="where the prompt ends"):
        learner.network.backbone(input_ids=torch.tensor([[5, 6]]))


def test_a_later_answer_is_learned_and_asked_for_behind_the_same_edits(tiny_encoder: Path, tiny_decoder: Path) -> None:
    """The row's loss is that of its targets behind the first prompt; `learn: last` makes all before the answer the prompt."""
    turns = (Turn("user", "my screen"), Turn("assistant", "yes"), Turn("user", "is black"), Turn("assistant", "no"))
    rows = [Row(Place("chats", 1), Conversation(turns))]
    for learn, n_turns in (("all", 1), ("last", 3)):
        task = task_of("generate", learn=learn)
        learner: Any = prepared(tiny_decoder, task, Reft(**SMALL), conversations(4))
        network = shaken(learner).network.eval()
        rendered = network.chat.render(rows[0].content)
        labels_T = torch.tensor(rendered.labels)
        n_prompt = len(network.chat.prompt(turns[:n_turns]))
        with torch.no_grad(), network.body.edited([rendered.ids], [n_prompt]):
            logits_TV = network.backbone(input_ids=torch.tensor([rendered.ids])).logits[0]
        wanted = F.cross_entropy(logits_TV[:-1], labels_T[1:], reduction="sum")
        (prediction,) = learner.predict(rows, answers=0)
        assert prediction.loss == pytest.approx(float(wanted), rel=1e-5), learn


# Training


@pytest.mark.parametrize("use_flat", [True, False])
def test_no_gradient_is_missing_and_a_unit_that_reached_nothing_has_one_of_zero(
    use_flat: bool, tiny_encoder: Path, tiny_decoder: Path
) -> None:
    """Behind the last block an edit of the prompt's first tokens reaches no target."""
    learner = learner_for("generate", Reft(tied=False, **SMALL), tiny_encoder, tiny_decoder)
    learner.network.body.use_flat = use_flat
    learner.train_mode(0.0)
    accumulate_gradients(learner, learner.encode(conversations(8)), 0.0)
    units = learner.network.edits.units
    assert units == [(0, "first"), (0, "last"), (1, "first"), (1, "last")]
    for name, parameter in trained(learner).items():
        assert parameter.grad is not None
        assert [float(g.norm()) > 0 for g in parameter.grad] == [True, True, False, True], name


@pytest.mark.parametrize(("form", "tied"), SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_have_one_loss_and_one_gradient(
    kind: str, form: Any, tied: bool, tiny_encoder: Path, tiny_decoder: Path
) -> None:
    rows = rows_of(kind, 8)
    learner = learner_for(kind, Reft(form=form, tied=tied, **SMALL), tiny_encoder, tiny_decoder)
    assert learner._difference(learner.encode(rows)) <= 1e-5
    found = []
    for use_flat in (True, False):
        learner.network.body.use_flat = use_flat
        loss = learner.loss(learner.encode(rows), 0.0)
        names, parameters = zip(*trained(learner).items(), strict=True)
        gradients = torch.autograd.grad(loss, parameters)
        found.append({"loss": loss.detach(), **dict(zip(names, gradients, strict=True))})
    assert difference(*found) <= 1e-5


def test_a_flat_way_that_left_the_edits_out_would_step_aside(tiny_encoder: Path, tiny_decoder: Path) -> None:
    """At the start an edit changes no value: only its gradient tells."""
    learner = learner_for("classify_text", Reft(**SMALL), tiny_encoder, tiny_decoder, moved=False)
    flat = learner.network.body.flat
    plain = flat.hidden
    flat.hidden = lambda *given, edit, **settings: plain(*given, **settings)
    notes: list[str] = []
    facts = learner.settle(learner.encode(rows_of("classify_text", 8)), (), 0, notes.append)
    assert facts["path"] == "generic"
    assert len(notes) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_enters_the_lowest_edited_block_is_fixed_and_can_be_kept(
    kind: str, tiny_encoder: Path, tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))
    rows = rows_of(kind, 8)
    found = []
    for passes in (2, 0):
        learner = learner_for(kind, Reft(layers=[1], **SMALL), tiny_encoder, tiny_decoder)
        assert learner.network.body.first_trained() == 1
        facts = learner.settle(learner.encode(rows), rows.rows, passes, lambda _: None)
        assert facts == {"path": "flat", "activations_kept": passes > 0}
        loss = learner.loss(learner.encode(rows), 0.0)
        gradients = torch.autograd.grad(loss, list(trained(learner).values()))
        found.append({"loss": loss.detach(), **dict(zip(trained(learner), gradients, strict=True))})
    assert difference(*found) <= 1e-5
    assert learner_for(kind, Reft(**SMALL), tiny_encoder, tiny_decoder).network.body.first_trained() == 0


# Files


@pytest.mark.parametrize(("form", "tied"), SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_edit_is_read_back_as_the_form_it_was(
    kind: str, form: Any, tied: bool, tiny_encoder: Path, tiny_decoder: Path, tmp_path: Path
) -> None:
    reft = Reft(form=form, tied=tied, **SMALL)
    learner = shaken(learner_for(kind, reft, tiny_encoder, tiny_decoder), 0.1)
    rows = rows_of(kind, 8)
    learner.save(tmp_path)
    stored = json.loads((tmp_path / "reft_config.json").read_text(encoding="utf-8"))
    assert (stored["form"], stored["layers"], stored["hidden_size"]) == (form, [0, 1], 32)
    tensors = load_file(tmp_path / "reft_model.safetensors")
    assert len(tensors) == 3 * 2 * (1 if tied else 2)
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    if form == "loreft":
        for name, r_RD in tensors.items():
            assert not name.endswith(".R") or float((r_RD @ r_RD.T - torch.eye(3)).abs().max()) < 1e-5
    base = base_from(folder_for(kind, tiny_encoder, tiny_decoder), task_for(kind).base_role)
    again: Any = reft.restore(base, task_for(kind), tmp_path)
    with torch.no_grad():
        wanted, found = (x.network.eval()(x.encode(rows)) for x in (learner, again))
    assert float((found - wanted).abs().max()) <= 1e-5
    other = reft.model_copy(update={"form": "noreft" if form == "direft" else "direft"})
    with pytest.raises(DamagedError, match=f"form is {form}, but the recipe beside it says {other.form}"):
        other.restore(
            base_from(folder_for(kind, tiny_encoder, tiny_decoder), base_role(kind)), task_for(kind), tmp_path
        )


def base_role(kind: str) -> Any:
    return task_for(kind).base_role


@pytest.mark.parametrize(("change", "said"), [({"hidden_size": 16}, "hidden_size is 32, but 16"), ({"num_hidden_layers": 3}, "num_hidden_layers is 2, but 3")])  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_another_size_of_model_is_refused(
    kind: str, change: dict[str, int], said: str, tiny_encoder: Path, tiny_decoder: Path, tmp_path: Path
) -> None:
    learner = learner_for(kind, Reft(**SMALL), tiny_encoder, tiny_decoder)
    learner.save(tmp_path)
    for path in tmp_path.glob("head*"):  # a classifier's own head is read first, and says so itself
        tensors = load_file(path)
        save_file(
            {"weight": tensors["weight"][:, : change.get("hidden_size", 32)].clone(), "bias": tensors["bias"]}, path
        )
    own = base_from(folder_for(kind, tiny_encoder, tiny_decoder), base_role(kind))
    config = type(own.model.config)(**{**own.model.config.to_dict(), **change})
    model: Any = BertModel(config, False) if isinstance(config, BertConfig) else LlamaForCausalLM(config)
    assert isinstance(config, BertConfig | LlamaConfig)
    base = Base(model.eval(), own.tokenizer, "other", "0" * 64, "unknown", None)
    with pytest.raises(ModelError, match=said):
        Reft(**SMALL).restore(base, task_for(kind), tmp_path)


@pytest.mark.parametrize("damage", ["missing", "left over", "shape"])
def test_saved_edits_that_do_not_fit_are_refused(
    damage: str, tiny_encoder: Path, tiny_decoder: Path, tmp_path: Path
) -> None:
    learner_for("generate", Reft(**SMALL), tiny_encoder, tiny_decoder).save(tmp_path)
    path = tmp_path / "reft_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[1]
    if damage == "missing":
        del tensors[name]
    elif damage == "left over":
        tensors["layers.2.all.W"] = torch.zeros(3, 32)
    else:
        tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, path)
    with pytest.raises(DamagedError, match="layers"):
        Reft(**SMALL).restore(base_from(tiny_decoder, "decoder"), task_for("generate"), tmp_path)


@pytest.mark.parametrize(
    ("settings", "path", "said"),
    [
        ({"layers": [0, 2]}, "method.layers", "there is no block 2; this model has 2, counted from 0 to 1"),
        ({"layers": []}, "method.layers", "is empty"),
        ({"rank": 33}, "method.rank", "33 is more than the 32 numbers"),
        ({"first": 0, "last": 0}, "method.first", "no token would be edited"),
    ],
)
def test_settings_that_edit_nothing_that_is_there_are_refused(
    settings: dict[str, Any], path: str, said: str, tiny_encoder: Path, tiny_decoder: Path
) -> None:
    with pytest.raises(RecipeError) as error:
        learner_for("generate", Reft(**settings), tiny_encoder, tiny_decoder)
    (problem,) = error.value.problems
    assert problem.path == path
    assert said in problem.message


def test_no_run_can_start_from_one_that_changed_no_weights(tiny_encoder: Path, tmp_path: Path) -> None:
    from tiny import labelled_rows

    recipe = {
        "task": "classify_text",
        "model": str(tiny_encoder),
        "data": {"train": labelled_rows(30)},
        "method": "reft",
        "training": {"max_steps": 1},
    }
    run = migaki.train(recipe, runs=tmp_path)
    assert run.predict(["the order has not arrived"])[0].output
    with pytest.raises(ModelError, match="run:1 was trained by reft, which changes no weights"):
        migaki.train({**recipe, "model": "run:1", "method": "lora"}, runs=tmp_path)


def test_the_backbone_is_saved_and_walked_over_as_if_nothing_were_there(tiny_encoder: Path, tiny_decoder: Path) -> None:
    learner = learner_for("generate", Reft(), tiny_encoder, tiny_decoder)
    plain = base_from(tiny_decoder, "decoder").model
    assert learner.network.backbone.state_dict().keys() == plain.state_dict().keys()
    assert not any(isinstance(m, Interventions) for m in learner.network.backbone.modules())
    assert isinstance(learner.network.edits, nn.Module)
