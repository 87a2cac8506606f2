"""Two-layer models with random weights and real tokenizers, made in a second: what the tests run instead of downloads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from migaki.models.base import quiet_transformers

WORDS = [
    "the printer does not print", "my screen is black", "how do I reset my password", "please send the invoice again",
    "the order has not arrived", "what is the price of the blue one", "a very long complaint about a late parcel",
    "返品したいのですが", "画面が真っ暗です", "パスワードを忘れました", "user assistant system yes no",
]  # fmt: skip

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\\n' + m['content'] + '<|end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"
)


def save_encoder(folder: Path, seed: int = 0, dropout: float = 0.0, words: Sequence[str] = WORDS) -> Path:
    """A BERT of two layers, 32 wide, with a WordPiece tokenizer over `words` and single characters."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.train_from_iterator([*words] * 3, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(t, core.token_to_id(t)) for t in ("[CLS]", "[SEP]")],
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=64, **names)
    config = BertConfig(
        vocab_size=core.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return _save(BertModel(_seeded(config, seed), add_pooling_layer=False), tokenizer, folder)


def save_decoder(folder: Path, seed: int = 0, tied: bool = True, dropout: float = 0.0) -> Path:
    """A Llama of two layers, 32 wide, grouped queries, with a byte-level tokenizer and a chat template."""
    special = ["<|pad|>", "<|bos|>", "<|start|>", "<|end|>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        WORDS * 3, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<|pad|>", bos_token="<|bos|>", eos_token="<|end|>", model_max_length=256
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    config = LlamaConfig(
        vocab_size=core.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        attention_dropout=dropout,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return _save(LlamaForCausalLM(_seeded(config, seed)), tokenizer, folder)


def _seeded(config: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    return config


def _save(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    quiet_transformers()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


LABELS = ("billing", "delivery", "technical")


def labelled_rows(n: int = 60) -> list[dict[str, str]]:
    """Rows that a model of any size can learn: each label has words of its own."""
    words = {
        "billing": "please send the invoice again price",
        "delivery": "the order has not arrived parcel late",
        "technical": "the printer does not print screen black password",
    }
    rows = []
    for i in range(n):
        label = LABELS[i % len(LABELS)]
        own = words[label].split()
        # Lengths differ from row to row, so that padding and grouping have something to do.
        text = " ".join(own[(i * 7 + k) % len(own)] for k in range(2 + i % 9))
        rows.append({"text": f"{text} {i}", "label": label})
    return rows


def chat_rows(n: int = 24) -> list[dict[str, str]]:
    """Question and answer, of different lengths."""
    return [
        {"prompt": f"{WORDS[i % 7]} {i}", "completion": " ".join(WORDS[(i + 3) % 7].split()[: 1 + i % 5])}
        for i in range(n)
    ]


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    """One JSON object in each line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
