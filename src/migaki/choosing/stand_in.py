"""A few blocks in the shapes of a card, with random weights, computed as a training computes them: what is measured."""

# B rows, T tokens of each, N tokens of all, D hidden

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from migaki.choosing.cards import ModelCard
from migaki.methods.adapters import adapt
from migaki.methods.lora import Lora
from migaki.tasks.body import Body

__all__ = ["StandIn"]

_WORDS = 256
_NAMES: Mapping[str, str] = {"deberta": "deberta-v2", "gemma3": "gemma3_text"}
"""What transformers calls an architecture, where cards call it differently."""


class StandIn(nn.Module):
    """Blocks without a head, and so few word vectors that they cost nothing."""

    def __init__(self, card: ModelCard, blocks: int) -> None:
        super().__init__()
        architecture: Any = AutoModelForCausalLM if card.decodes else AutoModel
        self.backbone: Any = architecture.from_config(_config(card, blocks))
        if getattr(self.backbone, "pooler", None) is not None:
            self.backbone.pooler = None
        self.eval()  # nothing is dropped by default, and what is compared must not be either
        self.body = Body(self.backbone, fill=0)
        self.body.share_prefix = False

    def adapted(self) -> StandIn:
        """The same with low-rank factors beside every matrix and everything else frozen."""
        adapt(self, Lora(), seed=0)
        # So that something has to be differentiated for what lies below the lowest block, as it is for all but one.
        self.backbone.get_input_embeddings().weight.requires_grad_(True)
        return self

    def forward(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Vectors of all tokens (N, D), or of an encoder their means (B, D)."""
        if self.backbone.can_generate():
            return self.body.at(rows, [np.arange(len(row)) for row in rows])
        return self.body.pooled(rows, "mean")


def _config(card: ModelCard, blocks: int) -> Any:
    shared = {} if card.kv_heads is None else {"num_key_value_heads": card.kv_heads}
    size = {} if card.head_size is None else {"head_dim": card.head_size}
    return AutoConfig.for_model(
        _NAMES.get(card.family, card.family),
        hidden_size=card.hidden,
        intermediate_size=card.inner,
        num_hidden_layers=blocks,
        num_attention_heads=card.heads,
        vocab_size=_WORDS,
        max_position_embeddings=card.context,
        pad_token_id=0,
        bos_token_id=1,
        cls_token_id=1,
        eos_token_id=2,
        sep_token_id=2,
        **shared,
        **size,
    )
