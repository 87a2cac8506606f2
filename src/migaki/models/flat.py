"""The same weights without padding: the tokens of all rows in one line, rows kept apart only in attention.

Linear layers, norms and activations look at one token at a time, so they need no rows and no padding. Only attention
does: there the line is spread over a grid (rows, longest row), attended, and gathered again. The modules of the
transformers model are called as they are, adapters and dropout included, so both ways share every weight; a model
whose parts are not laid out as expected has no flat form and runs as transformers runs it.
"""

# Shapes: N tokens in line, M tokens and fillers in line, P wanted tokens, S shared prefix, B rows, T longest row, D hidden,
#         F feed-forward, H heads, G key-value heads, E head width

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

__all__ = [
    "Edit",
    "FlatDecoder",
    "FlatEncoder",
    "Line",
    "attention",
    "attention_among_all",
    "filled_length",
    "flat_decoder",
    "flat_encoder",
    "seen_by_one",
    "take",
]

Edit = Callable[[int, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""What a method changes in a block's output: from the block's number, (M, D) and None, or (P, D) and the places of these
tokens in the line, to the same with its changes. Fillers stand behind all tokens and are nobody's."""

_FILLED_TO, _FINENESS = 32, 5
"""A line is filled up to a multiple of 32, from 1024 tokens on of a 16th to a 32nd of its length.

For products in bfloat16 a processor's library compiles a kernel for each new number of lines, which at a few hundred
tokens takes three to eight times as long as the product itself; and no two steps have equally many tokens.
"""


@dataclass(frozen=True)
class Line:
    """Rows of token ids laid end to end, behind a prefix that all rows share and that stands there only once."""

    ids_N: torch.Tensor
    positions_N: torch.Tensor
    """Position of each token in its own row, the shared prefix counted."""
    lengths: tuple[int, ...]
    """Tokens of each row behind the prefix."""
    shared: int
    """Tokens of the prefix; 0 where rows share none."""
    slots_N: torch.Tensor | None
    """Place of each token behind the prefix in the grid (B * T); None where the line and the grid are the same."""

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], device: torch.device, shared: int = 0) -> Line:
        """Lay out rows whose first `shared` tokens are the same; every row must be longer than that."""
        lengths = tuple(len(row) - shared for row in rows)
        assert min(lengths) > 0
        ids_N = np.concatenate([np.asarray(rows[0][:shared]), *(np.asarray(row[shared:]) for row in rows)])
        positions_N = np.concatenate([np.arange(shared), *(np.arange(shared, shared + n) for n in lengths)])
        width = max(lengths)
        slots_N = None
        if min(lengths) < width or filled_length(len(ids_N)) > len(ids_N):
            slots_N = torch.from_numpy(np.concatenate([np.arange(n) + i * width for i, n in enumerate(lengths)])).to(
                device
            )
        return cls(
            torch.from_numpy(ids_N.astype(np.int64)).to(device),
            torch.from_numpy(positions_N.astype(np.int64)).to(device),
            lengths,
            shared,
            slots_N,
        )

    def filled(self, x_N: torch.Tensor) -> torch.Tensor:
        """With zeros for the fillers behind the tokens, (M, ...)."""
        n_fillers = filled_length(len(x_N)) - len(x_N)
        return torch.cat([x_N, x_N.new_zeros(n_fillers, *x_N.shape[1:])]) if n_fillers else x_N

    def starts(self) -> list[int]:
        """Where each row's own tokens begin in the line."""
        ends = np.cumsum((self.shared, *self.lengths))
        return [int(end) for end in ends[:-1]]

    def behind(self, token: int) -> torch.Tensor:
        """1 for each token that stands in its own row behind the first `token` of it, else 0, (N,) int64; for rows without a
        shared prefix."""
        found_N = (self.ids_N == token).long()
        before_N = found_N.cumsum(0) - found_N
        lengths_B = torch.tensor(self.lengths, device=before_N.device)
        starts_B = torch.tensor(self.starts(), device=before_N.device)
        return (before_N > before_N[starts_B].repeat_interleave(lengths_B)).long()

    def has_one_in_each_row(self, places_P: torch.Tensor) -> bool:
        """Whether the places are one of each row's own tokens, row after row."""
        starts = self.starts()
        return len(places_P) == len(starts) and all(
            start <= place < start + n for start, n, place in zip(starts, self.lengths, places_P.tolist(), strict=True)
        )

    def grid(self, x_N: torch.Tensor) -> torch.Tensor:
        """The rows' own tokens (N - S, ...) as (B, T, ...), zeros behind the shorter rows. Fillers, as in (M - S, ...), are
        left out."""
        n_rows, width = len(self.lengths), max(self.lengths)
        if self.slots_N is not None:
            x_N = _Spread.apply(x_N, self.slots_N, n_rows * width)  # type: ignore[no-untyped-call]
        return x_N.reshape(n_rows, width, *x_N.shape[1:])

    def gathered(self, x_BT: torch.Tensor) -> torch.Tensor:
        """The inverse of `grid`, with zeros for fillers, (M - S, ...)."""
        x = x_BT.reshape(-1, *x_BT.shape[2:])
        if self.slots_N is None:
            return x
        n_own = filled_length(len(self.ids_N)) - self.shared
        return _Take.apply(x, self.slots_N, n_own)  # type: ignore[no-untyped-call, no-any-return]

    def padding(self, device: torch.device) -> torch.Tensor | None:
        """True where a key may be seen, (B, 1, 1, T); None where there is no padding."""
        if min(self.lengths) == max(self.lengths):
            return None
        lengths_B = torch.tensor(self.lengths, device=device)
        return (torch.arange(max(self.lengths), device=device) < lengths_B[:, None])[:, None, None]


def filled_length(n: int) -> int:
    """M of N tokens.

    >>> [filled_length(n) for n in (1, 32, 33, 1023, 1025, 3000)]
    [32, 32, 64, 1024, 1088, 3072]
    """
    unit = max(_FILLED_TO, 1 << max(0, n.bit_length() - _FINENESS))
    return -(-n // unit) * unit


class _Spread(torch.autograd.Function):
    """The first lines of x (M, ...) to as many distinct slots of a grid of zeros. Autograd's own scatter would add where
    nothing has to be added."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, slots: torch.Tensor, n_slots: int) -> torch.Tensor:
        ctx.save_for_backward(slots)
        ctx.n = len(x)
        return x.new_zeros(n_slots, *x.shape[1:]).index_copy_(0, slots, x[: len(slots)])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (slots,) = ctx.saved_tensors
        return _lines(grads[0], slots, ctx.n), None, None


class _Take(torch.autograd.Function):
    """x (N, ...) at distinct places (P,), zeros behind them up to `n_lines`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, places: torch.Tensor, n_lines: int) -> torch.Tensor:
        ctx.save_for_backward(places)
        ctx.n = len(x)
        return _lines(x, places, n_lines)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (places,) = ctx.saved_tensors
        grad = grads[0]
        found = grad.new_zeros(ctx.n, *grad.shape[1:]).index_copy_(0, places, grad[: len(places)])
        return found, None, None


def _lines(x: torch.Tensor, places: torch.Tensor, n_lines: int) -> torch.Tensor:
    """x at these places, zeros behind them up to `n_lines`."""
    if len(places) == n_lines:
        return x.index_select(0, places)
    found = x.new_empty(n_lines, *x.shape[1:])
    torch.index_select(x, 0, places, out=found[: len(places)])
    found[len(places) :].zero_()
    return found


def take(x: torch.Tensor, places_P: torch.Tensor) -> torch.Tensor:
    """Lines of x at distinct places, (P, ...)."""
    return _Take.apply(x, places_P, len(places_P))  # type: ignore[no-untyped-call, no-any-return]


class _RmsNorm(torch.autograd.Function):
    """x / rms(x) * w, saving x and one number a token. Source: Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4."""

    @staticmethod
    def forward(ctx: Any, x_ND: torch.Tensor, w_D: torch.Tensor, epsilon: float) -> torch.Tensor:
        scale_N1 = x_ND.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x_ND, w_D, scale_N1)
        return (x_ND * scale_N1).mul_(w_D)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x_ND, w_D, scale_N1 = ctx.saved_tensors
        dy_ND = grads[0]
        normed_ND = x_ND * scale_N1
        dw_D = (dy_ND * normed_ND).sum(0) if ctx.needs_input_grad[1] else None
        dx_ND = dy_ND * w_D
        along_N1 = (dx_ND * normed_ND).mean(-1, keepdim=True)
        return dx_ND.sub_(normed_ND.mul_(along_N1)).mul_(scale_N1), dw_D, None


class _SwiGlu(torch.autograd.Function):
    """silu(gate) * up, saving its two inputs only. Source: Shazeer 2020, arXiv:2002.05202."""

    @staticmethod
    def forward(ctx: Any, gate_NF: torch.Tensor, up_NF: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate_NF, up_NF)
        return F.silu(gate_NF).mul_(up_NF)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        gate_NF, up_NF = ctx.saved_tensors
        dy_NF = grads[0]
        dup_NF = F.silu(gate_NF).mul_(dy_NF)
        return torch.ops.aten.silu_backward(dy_NF * up_NF, gate_NF), dup_NF


def _rms_norm(norm: nn.Module, x_ND: torch.Tensor) -> torch.Tensor:
    weight, epsilon = getattr(norm, "weight", None), getattr(norm, "variance_epsilon", None)
    if type(norm).__name__ in _PLAIN_NORMS and epsilon is not None and x_ND.dtype == torch.float32:
        return _RmsNorm.apply(x_ND, weight, epsilon)  # type: ignore[no-untyped-call, no-any-return]
    return norm(x_ND)  # type: ignore[no-any-return]


def _feed_forward(mlp: Any, x_ND: torch.Tensor) -> torch.Tensor:
    parts = {name for name, _ in mlp.named_children()}
    # transformers has a SiLU of its own.
    if parts == _GATED_PARTS and type(mlp.act_fn).__name__ in ("SiLU", "SiLUActivation"):
        inner_NF = _SwiGlu.apply(mlp.gate_proj(x_ND), mlp.up_proj(x_ND))  # type: ignore[no-untyped-call]
        return mlp.down_proj(inner_NF)  # type: ignore[no-any-return]
    return mlp(x_ND)  # type: ignore[no-any-return]


# A norm of another name may add one to its weight (Gemma) or subtract a mean: those run as they are.
_PLAIN_NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "SmolLM3RMSNorm")
_DECODER_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION_PARTS = {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"}
_GATED_PARTS = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_ENCODERS = ("BertModel", "RobertaModel", "XLMRobertaModel")


class FlatDecoder:
    """Llama-like decoders: norm, attention with rotary positions, norm, gated feed-forward."""

    def __init__(self, body: Any) -> None:
        self.body = body
        config = body.config.get_text_config()
        self.n_heads = config.num_attention_heads
        self.n_groups = getattr(config, "num_key_value_heads", None) or self.n_heads
        self.recompute = False
        """Keep only what enters each block, for less memory and a third more time."""
        self.head_width = getattr(config, "head_dim", None) or config.hidden_size // self.n_heads

    @property
    def layers(self) -> Any:
        return self.body.layers

    def embed(self, line: Line) -> torch.Tensor:
        """(N, D)"""
        return self.body.embed_tokens(line.ids_N)  # type: ignore[no-any-return]

    def hidden(
        self,
        line: Line,
        h_ND: torch.Tensor,
        wanted_P: torch.Tensor | None,
        first: int = 0,
        last: int | None = None,
        edit: Edit | None = None,
    ) -> torch.Tensor:
        """From what enters block `first` to the final norm's output at the wanted tokens, (P, D); with `last`, to what
        enters that block, at all tokens. What comes out of each block passes through `edit`.

        The last block computes keys and values of all tokens, everything else of the wanted ones only.
        """
        h_ND, n_tokens = line.filled(h_ND), len(h_ND)
        cos_1NE, sin_1NE = self.body.rotary_emb(h_ND[None], position_ids=line.filled(line.positions_N)[None])
        turn = cos_1NE[0], sin_1NE[0]
        end = len(self.layers) if last is None else last
        for number in range(first, end):
            # The last block's answer is only asked for where it counts.
            wanted = wanted_P if last is None and number == end - 1 else None
            h_ND = _remembering(self.recompute, self._block, self.layers[number], h_ND, line, turn, wanted)
            h_ND = h_ND if edit is None else edit(number, h_ND, wanted)
        if last is not None:
            return h_ND[:n_tokens]
        if wanted_P is None:
            h_ND = h_ND[:n_tokens]
        elif first >= end:
            h_ND = take(h_ND, wanted_P)
        return _rms_norm(self.body.norm, h_ND)

    def _block(
        self,
        layer: Any,
        h_ND: torch.Tensor,
        line: Line,
        turn: tuple[torch.Tensor, torch.Tensor],
        wanted_P: torch.Tensor | None,
    ) -> torch.Tensor:
        attention, x_ND = layer.self_attn, _rms_norm(layer.input_layernorm, h_ND)
        q_NHE = _rotate(self._heads(attention, "q", x_ND, self.n_heads), *turn)
        k_NGE = _rotate(self._heads(attention, "k", x_ND, self.n_groups), *turn)
        v_NGE = attention.v_proj(x_ND).view(-1, self.n_groups, self.head_width)
        seen_NX = self._attend(attention, q_NHE, k_NGE, v_NGE, line)
        if wanted_P is not None:
            seen_NX, h_ND = take(seen_NX, wanted_P), take(h_ND, wanted_P)
        h_ND = h_ND + attention.o_proj(seen_NX)
        return h_ND + _feed_forward(layer.mlp, _rms_norm(layer.post_attention_layernorm, h_ND))

    def _heads(self, attention: Any, name: str, x_ND: torch.Tensor, n: int) -> torch.Tensor:
        x_NHE = getattr(attention, f"{name}_proj")(x_ND).view(-1, n, self.head_width)
        norm = getattr(attention, f"{name}_norm", None)
        return x_NHE if norm is None else norm(x_NHE)  # type: ignore[no-any-return]

    def _attend(
        self, own: Any, q_NHE: torch.Tensor, k_NGE: torch.Tensor, v_NGE: torch.Tensor, line: Line
    ) -> torch.Tensor:
        """Causal attention within each row and over the shared prefix, (N, H * E)."""
        dropout = own.attention_dropout if own.training else 0.0
        scale, shared = own.scaling, line.shared
        q, k, v = (
            x.transpose(1, 2) for x in (line.grid(q_NHE[shared:]), line.grid(k_NGE[shared:]), line.grid(v_NGE[shared:]))
        )
        settings = {"dropout_p": dropout, "scale": scale, "enable_gqa": self.n_heads != self.n_groups}
        if not shared:
            # Padding stands behind every row, and causal attention never looks there: no mask is needed.
            rows_BHTE = attention(q, k, v, is_causal=True, **settings)
            return line.gathered(rows_BHTE.transpose(1, 2)).flatten(1)
        k_S, v_S = (x[:shared].transpose(0, 1)[None] for x in (k_NGE, v_NGE))
        prefix_1HSE = attention(q_NHE[:shared].transpose(0, 1)[None], k_S, v_S, is_causal=True, **settings)
        n_rows, width = q.shape[0], q.shape[2]
        k, v = (torch.cat([part.expand(n_rows, -1, -1, -1), rest], 2) for part, rest in ((k_S, k), (v_S, v)))
        mask = torch.ones(width, shared + width, dtype=torch.bool, device=q.device).tril(shared)
        rows_BHTE = attention(q, k, v, attn_mask=mask, **settings)
        rows_NX = line.gathered(rows_BHTE.transpose(1, 2)).flatten(1)
        return torch.cat([prefix_1HSE[0].transpose(0, 1).flatten(1), rows_NX])


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **settings: Any) -> torch.Tensor:
    """softmax(q k') v. On a processor always in float32: there the backward pass in a narrower format takes three times as
    long, whatever units the processor has for products of matrices."""
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, **settings)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), **settings)


def attention_among_all(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **settings: Any) -> torch.Tensor:
    """softmax(q k') v where every token sees every other one and all rows are equally long, as patches of pictures are.

    In a narrower format on a processor as two plain products, what tokens see of each other kept for the backward pass: of 16
    pictures with 197 patches forward and backward take 19 ms in bfloat16, 44 ms with `attention`.
    """
    if q.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or settings["dropout_p"]:
        return attention(q, k, v, **settings)
    dtype = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):
        q, k, v = (x.to(dtype) for x in (q, k, v))
        return torch.softmax((q * settings["scale"]) @ k.mT, -1) @ v


def _rotate(x_NHE: torch.Tensor, cos_NE: torch.Tensor, sin_NE: torch.Tensor) -> torch.Tensor:
    """Rotary positions. Source: Su et al. 2021, arXiv:2104.09864, eq. 34, in the half-split form of transformers."""
    left, right = x_NHE.chunk(2, -1)
    return x_NHE * cos_NE[:, None] + torch.cat([-right, left], -1) * sin_NE[:, None]


class FlatEncoder:
    """BERT-like encoders: attention, norm, feed-forward, norm."""

    def __init__(self, body: Any) -> None:
        self.body = body
        self.recompute = False
        self.second_behind: int | None = None
        """Tokens behind the first one with this id belong to the second text of a pair; None: there are no pairs."""
        # RoBERTa counts positions from the number behind its pad token's.
        padding = body.embeddings.padding_idx if hasattr(body.embeddings, "padding_idx") else None
        self.first_position = 0 if padding is None or type(body).__name__ == "BertModel" else padding + 1

    @property
    def layers(self) -> Any:
        return self.body.encoder.layer

    def embed(self, line: Line) -> torch.Tensor:
        """(N, D)"""
        positions_1N = line.positions_N[None] + self.first_position
        types_1N = torch.zeros_like(positions_1N)
        if self.second_behind is not None:
            types_1N = line.behind(self.second_behind)[None]
        embedded = self.body.embeddings(input_ids=line.ids_N[None], position_ids=positions_1N, token_type_ids=types_1N)
        return embedded[0]  # type: ignore[no-any-return]

    def hidden(
        self,
        line: Line,
        h_ND: torch.Tensor,
        wanted_P: torch.Tensor | None,
        first: int = 0,
        last: int | None = None,
        edit: Edit | None = None,
    ) -> torch.Tensor:
        """From what enters block `first` to the last block's output at the wanted tokens (all for None), (P, D); with
        `last`, to what enters that block, at all tokens. What comes out of each block passes through `edit`."""
        h_ND, n_tokens = line.filled(h_ND), len(h_ND)
        padding = line.padding(h_ND.device)
        end = len(self.layers) if last is None else last
        for number in range(first, end):
            wanted = wanted_P if last is None and number == end - 1 else None
            h_ND = _remembering(self.recompute, self._block, self.layers[number], h_ND, line, padding, wanted)
            h_ND = h_ND if edit is None else edit(number, h_ND, wanted)
        if last is not None or wanted_P is None:
            return h_ND[:n_tokens]
        return take(h_ND, wanted_P) if first >= end else h_ND

    def _block(
        self,
        layer: Any,
        h_ND: torch.Tensor,
        line: Line,
        padding: torch.Tensor | None,
        wanted_P: torch.Tensor | None,
    ) -> torch.Tensor:
        own = layer.attention.self
        shape = (-1, own.num_attention_heads, own.attention_head_size)
        plain = type(own.key) is type(own.value) is nn.Linear
        if plain and wanted_P is not None and line.has_one_in_each_row(wanted_P):
            h_BTD, h_ND = line.grid(h_ND), take(h_ND, wanted_P)
            seen_ND = seen_by_one(
                own.query(h_ND).view(shape),
                h_BTD,
                own.key,
                own.value,
                own.scaling,
                padding,
                own.dropout.p,
                own.training,
            )
        else:
            q, k, v = (line.grid(part(h_ND).view(shape)).transpose(1, 2) for part in (own.query, own.key, own.value))
            seen_BHTE = attention(
                q, k, v, attn_mask=padding, dropout_p=own.dropout.p if own.training else 0.0, scale=own.scaling
            )
            seen_ND = line.gathered(seen_BHTE.transpose(1, 2)).flatten(1)
            if wanted_P is not None:
                seen_ND, h_ND = take(seen_ND, wanted_P), take(h_ND, wanted_P)
        h_ND = layer.attention.output(seen_ND, h_ND)
        return layer.output(layer.intermediate(h_ND), h_ND)  # type: ignore[no-any-return]


def seen_by_one(
    q_BHE: torch.Tensor,
    h_BTD: torch.Tensor,
    key: nn.Linear,
    value: nn.Linear,
    scale: float,
    padding: torch.Tensor | None = None,
    dropout: float = 0.0,
    training: bool = False,
) -> torch.Tensor:
    """Attention of one query in each row, (B, H * E), without the keys and values of the other tokens.

    q . (K h + k) is (K' q) . h + q . k, and the mean of V h + v is V times the mean of h, plus v: so the matrices act once
    a row instead of once a token, which for a text of many tokens leaves next to nothing of the work.
    """
    n_heads, width = q_BHE.shape[1:]
    key_HED, value_HED = (part.weight.view(n_heads, width, -1) for part in (key, value))
    asked_BHD = torch.einsum("bhe,hed->bhd", q_BHE, key_HED)
    scores_BHT = asked_BHD @ h_BTD.transpose(1, 2)
    if key.bias is not None:
        scores_BHT = scores_BHT + (q_BHE * key.bias.view(n_heads, width)).sum(-1, keepdim=True)
    scores_BHT = scores_BHT * scale
    if padding is not None:
        scores_BHT = scores_BHT.masked_fill(~padding[:, 0], -torch.inf)
    share_BHT = F.dropout(scores_BHT.float().softmax(-1), dropout, training).to(h_BTD.dtype)
    seen_BHE = torch.einsum("bhd,hed->bhe", share_BHT @ h_BTD, value_HED)
    if value.bias is not None:
        seen_BHE = seen_BHE + share_BHT.sum(-1, keepdim=True) * value.bias.view(n_heads, width)
    return seen_BHE.flatten(1)


def _remembering(
    recompute: bool, block: Callable[..., torch.Tensor], layer: Any, h_ND: torch.Tensor, *rest: Any
) -> torch.Tensor:
    """One block; with `recompute` its inner values are made again in the backward pass instead of being kept.

    Source: Chen et al. 2016, arXiv:1604.06174.
    """
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, layer, h_ND, *rest, use_reentrant=False)  # type: ignore[no-any-return]
    return block(layer, h_ND, *rest)


def flat_decoder(model: Any) -> FlatDecoder | None:
    """The flat form of a causal language model, None where its blocks are not those of a Llama."""
    body = getattr(model, getattr(model, "base_model_prefix", ""), model)
    config = body.config.get_text_config()
    layers = getattr(body, "layers", None)
    if layers is None or not hasattr(body, "rotary_emb") or not hasattr(body, "norm"):
        return None
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return None
    for layer in layers:
        parts = {name for name, _ in layer.named_children()}
        if parts != _DECODER_PARTS or not {n for n, _ in layer.self_attn.named_children()} <= _ATTENTION_PARTS:
            return None
    return FlatDecoder(body)


def flat_encoder(body: Any) -> FlatEncoder | None:
    """The flat form of an encoder, None where its blocks are not those of BERT."""
    config = body.config
    if type(body).__name__ not in _ENCODERS or config.is_decoder or config.add_cross_attention:
        return None
    if getattr(config, "chunk_size_feed_forward", 0):
        return None
    return FlatEncoder(body)
