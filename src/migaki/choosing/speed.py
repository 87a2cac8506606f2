"""How fast this machine computes one block of a model: forward, and forward with backward."""

# N tokens in line, T tokens of a row, D hidden

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from migaki.choosing.cards import ModelCard
from migaki.training.precision import probe

__all__ = ["Speed", "measured_speed"]

_TOKENS, _ROW = 1024, 64
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds a token and block, in the number format that is fastest here."""

    forward_s: float
    """Computed only."""
    through_s: float
    """Computed and differentiated for what lies below, weights frozen: as LoRA needs it."""
    trained_s: float
    """Computed and differentiated for weights and what lies below."""
    update_s: float
    """Seconds of AdamW a parameter and step."""
    precision: str


class _Block(nn.Module):
    """Attention and an inner part with the matrices of a card; norms and activation as such blocks have them."""

    def __init__(self, card: ModelCard) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(n_in, n_out, bias=False) for n_out, n_in in card.linear_shapes)
        self.head_size: int = card.head_size or card.hidden // card.heads
        self.norms = nn.ModuleList(nn.LayerNorm(card.hidden) for _ in range(2))
        self.causal = card.decodes

    def forward(self, h_ND: torch.Tensor) -> torch.Tensor:
        query, key, value, out, *inner = self.linears
        x_ND = self.norms[0](h_ND)
        q, k, v = (
            layer(x_ND).unflatten(-1, (-1, self.head_size)).unflatten(0, (-1, _ROW)).transpose(1, 2)
            for layer in (query, key, value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, enable_gqa=k.shape[1] != q.shape[1])
        h_ND = h_ND + out(mixed.transpose(1, 2).reshape(len(h_ND), -1))
        x_ND = self.norms[1](h_ND)
        wide = F.gelu(inner[0](x_ND)) if len(inner) == 2 else F.silu(inner[0](x_ND)) * inner[1](x_ND)
        after: torch.Tensor = h_ND + inner[-1](wide)
        return after


def measured_speed(card: ModelCard) -> Speed:
    """About half a second of work for a small model; the best of a few tries, since others may use the machine too."""
    gflops = probe(card.linear_shapes[-2:], torch.device("cpu"), 0.15)
    narrow = gflops["bfloat16"] > 1.2 * gflops["float32"]
    block = _Block(card)
    h_ND = torch.randn(_TOKENS, card.hidden, requires_grad=True)

    def run(backward: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow), torch.set_grad_enabled(backward):
            out_ND = block(h_ND)
        if backward:
            out_ND.float().sum().backward()

    forward_s = _best(lambda: run(False))
    trained_s = _best(lambda: run(True))
    block.requires_grad_(False)
    through_s = _best(lambda: run(True))
    block.requires_grad_(True)
    optimizer = torch.optim.AdamW(block.parameters())
    update_s = _best(optimizer.step) / sum(p.numel() for p in block.parameters())
    return Speed(
        forward_s / _TOKENS, through_s / _TOKENS, trained_s / _TOKENS, update_s, "bfloat16" if narrow else "float32"
    )


def _best(work: Callable[[], object]) -> float:
    work()
    found = []
    for _ in range(_TRIES):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)
