"""Decoders of other families than the tiny Llama, two layers each, over its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from migaki.models.base import Base, quiet_transformers

_LLAMA_LIKE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}

DECODERS: dict[str, dict[str, Any]] = {
    # Absolute positions, weights stored the other way round.
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    # Attention by distance, no positions at all.
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "tie_word_embeddings": False},
    "qwen3": {**_LLAMA_LIKE, "head_dim": 8},
    # The logits are more than the output embedding of the last hidden state: capped, scaled, scaled, scaled, transformed.
    "gemma2": {**_LLAMA_LIKE, "head_dim": 8, "sliding_window": 16, "final_logit_softcapping": 0.5},
    "cohere": _LLAMA_LIKE,
    "granite": {**_LLAMA_LIKE, "logits_scaling": 3.0},
    "falcon_h1": {
        **_LLAMA_LIKE,
        "head_dim": 8,
        "lm_head_multiplier": 0.5,
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
    },
    "bert": {**_LLAMA_LIKE, "is_decoder": True},
}


def decoder(kind: str, tokenizer_folder: Path, seed: int = 0) -> Base:
    """Random weights of this family, in evaluation mode and without gradients, as `load_base` gives them."""
    quiet_transformers()
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **ids, **DECODERS[kind])
    model = AutoModelForCausalLM.from_config(config)
    model.requires_grad_(False)
    model.train(False)
    return Base(model, tokenizer, kind, "0" * 64, "unknown", None)
