"""Two-layer models that hear, with random weights, and recordings whose class or words such a model can learn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    GenerationConfig,
    HubertConfig,
    HubertForCTC,
    HubertModel,
    PreTrainedTokenizerFast,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from migaki.models.base import quiet_transformers
from odd_sounds import RATE_HZ, tone

SPOKEN = ("yes", "no", "press one", "press two", "はい")
WINDOW_S = 2
FAMILIES = ("whisper", "wav2vec2", "wav2vec2-stable", "hubert", "audio-spectrogram-transformer")
"""Every kind of encoder; of wav2vec 2.0 both orders of norm and attention."""


def whisper_tokenizer() -> PreTrainedTokenizerFast:
    special = [
        *("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|ja|>", "<|translate|>", "<|transcribe|>"),
        *("<|startofprev|>", "<|notimestamps|>", "<|0.00|>", "<|0.02|>"),
    ]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        [f" {text}" for text in SPOKEN] * 3, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet)
    )
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=end, eos_token=end, unk_token=end, pad_token=end
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    return tokenizer


def save_whisper(folder: Path, seed: int = 0, languages: bool = True) -> Path:
    """A Whisper of two layers on each side, 32 wide, that hears two seconds at once."""
    quiet_transformers()
    tokenizer = whisper_tokenizer()
    of = tokenizer.convert_tokens_to_ids
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=80,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=50 * WINDOW_S,
        max_target_positions=48,
        bos_token_id=of("<|endoftext|>"),
        eos_token_id=of("<|endoftext|>"),
        pad_token_id=of("<|endoftext|>"),
        decoder_start_token_id=of("<|startoftranscript|>"),
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(config)
    known = {"en": of("<|en|>"), "ja": of("<|ja|>")}
    model.generation_config = GenerationConfig(
        max_length=48,
        pad_token_id=config.pad_token_id,
        eos_token_id=config.eos_token_id,
        bos_token_id=config.bos_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        suppress_tokens=[of("<|translate|>")],
        begin_suppress_tokens=[config.eos_token_id],
        no_timestamps_token_id=of("<|notimestamps|>"),
        is_multilingual=languages,
        **({"lang_to_id": {f"<|{k}|>": v for k, v in known.items()}} if languages else {}),
        **({"task_to_id": {n: of(f"<|{n}|>") for n in ("translate", "transcribe")}} if languages else {}),
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW_S).save_pretrained(folder)
    return folder


def _wave_settings(kind: str) -> dict[str, Any]:
    stable = kind == "wav2vec2-stable"
    return {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "conv_dim": (16, 16, 16),
        "conv_stride": (10, 8, 4),
        "conv_kernel": (20, 8, 4),
        "num_feat_extract_layers": 3,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
        "do_stable_layer_norm": stable,
        "feat_extract_norm": "layer" if stable else "group",
    }


def save_ctc_tokenizer(folder: Path, letters: str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ'") -> Wav2Vec2CTCTokenizer:
    """Letters as wav2vec 2.0 writes them: capital ones, words apart by a bar."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["<pad>", "<s>", "</s>", "<unk>", "|", *letters]
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}, ensure_ascii=False))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), pad_token="<pad>", word_delimiter_token="|")
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_wave(folder: Path, kind: str = "wav2vec2", ctc: bool = False, seed: int = 0) -> Path:
    """A wav2vec 2.0 or HuBERT of two layers, 32 wide, one position every 20 ms; with a head for letters if asked."""
    quiet_transformers()
    hubert = kind == "hubert"
    tokenizer = save_ctc_tokenizer(folder) if ctc else None
    head = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id} if tokenizer else {}
    config = (HubertConfig if hubert else Wav2Vec2Config)(**_wave_settings(kind), **head, ctc_loss_reduction="sum")
    torch.manual_seed(seed)
    made = (HubertForCTC if hubert else Wav2Vec2ForCTC) if ctc else (HubertModel if hubert else Wav2Vec2Model)
    made(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


def save_ast(folder: Path, seed: int = 0) -> Path:
    """An audio spectrogram transformer of two layers, 32 wide, that hears one second."""
    quiet_transformers()
    config = ASTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_length=100,
        num_mel_bins=32,
        patch_size=16,
        frequency_stride=16,
        time_stride=16,
    )
    torch.manual_seed(seed)
    ASTModel(config).save_pretrained(folder)
    ASTFeatureExtractor(max_length=100, num_mel_bins=32).save_pretrained(folder)
    return folder


def save_hearing(kind: str, folder: Path) -> Path:
    """A tiny model of one of `FAMILIES`."""
    if kind == "whisper":
        return save_whisper(folder)
    return save_ast(folder) if kind == "audio-spectrogram-transformer" else save_wave(folder, kind)


def loaded(kind: str, folder: Path) -> tuple[Any, Any]:
    """Model and feature extractor of one of `FAMILIES`, as transformers loads them."""
    from transformers import AutoFeatureExtractor, AutoModel

    save_hearing(kind, folder)
    return AutoModel.from_pretrained(folder).eval(), AutoFeatureExtractor.from_pretrained(folder)


def chirp(number: int, seconds: float) -> np.ndarray:
    """A sound of its own for each number: a tone that rises, with a little noise."""
    n = round(seconds * RATE_HZ)
    at_N = np.arange(n) / RATE_HZ
    noise_N = np.random.default_rng(number).standard_normal(n)
    wave_N = 0.3 * np.sin(2 * np.pi * (200 + 90 * (number % 7)) * at_N * (1 + at_N)) + 0.01 * noise_N
    return wave_N.astype(np.float32)


def write_recordings(folder: Path, n: int = 24, labels: Sequence[str] = ("high", "low")) -> list[dict[str, str]]:
    """Tones of different lengths, high and low in turn: rows with file, label and what they are said to say."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(n):
        kind = number % len(labels)
        seconds = 0.15 + 0.05 * (number % 5)
        wave_N = tone(seconds, hertz=(2000.0, 250.0, 800.0)[kind] + 7 * number)
        path = folder / f"{number:02d}.wav"
        soundfile.write(path, wave_N, RATE_HZ)
        rows.append({"file": str(path), "label": labels[kind], "text": SPOKEN[kind]})
    return rows
