"""Shapes of models of images and sounds add up: to transformers' own count of parameters, and to products worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    ConvNextConfig,
    DeiTConfig,
    HubertConfig,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
    Wav2Vec2Config,
    WhisperConfig,
)

from migaki.choosing import shapes
from migaki.models.efficientnet_lite import EfficientNetLiteConfig

WHISPER = {"d_model": 384, "encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536, "encoder_layers": 4, "decoder_layers": 4}
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
BASIC = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
CASES: list[tuple[str, Any, shapes.Shapes]] = [
    ("vit", ViTConfig(), shapes.vit(768, 3072, 12, 16, 224)),
    ("deit", DeiTConfig(), shapes.vit(768, 3072, 12, 16, 224, tokens=2)),
    ("resnet-50", ResNetConfig(), shapes.resnet([3, 4, 6, 3], [256, 512, 1024, 2048], 64, True, 224)),
    ("resnet-18", ResNetConfig(**BASIC), shapes.resnet([2] * 4, [64, 128, 256, 512], 64, False, 224)),
    ("convnext", ConvNextConfig(), shapes.convnext([3, 3, 9, 3], [96, 192, 384, 768], 224)),
    ("swin", SwinConfig(), shapes.swin([2, 2, 6, 2], 96, [3, 6, 12, 24], 7, 224)),
    ("lite0", EfficientNetLiteConfig(), shapes.efficientnet_lite0(224)),
    ("wav2vec2", Wav2Vec2Config(), shapes.wave(768, 3072, 12, 1.0, False)),
    ("hubert", HubertConfig(), shapes.wave(768, 3072, 12, 1.0, False)),
    (
        "xlsr",
        Wav2Vec2Config(**LARGE, feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True),
        shapes.wave(1024, 4096, 24, 1.0, True),
    ),
    ("whisper", WhisperConfig(**WHISPER), shapes.speech(384, 1536, 4, 4, 80, 51865, 10)),
]


def made(config: Any) -> Any:
    """Without memory."""
    with torch.device("meta"):
        return AutoModel.from_config(config)


@pytest.mark.parametrize(("name", "config", "found"), CASES, ids=[name for name, *_ in CASES])
def test_parameters_are_those_that_transformers_counts(name, config, found):
    model = made(config)
    counted = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("pooler"))
    assert found.whole.parameters == counted


def test_the_parameters_of_a_vit_are_worked_out_by_hand():
    # Patches 768 x (3 x 16 x 16 + 1), a first token and 197 places of 768; 12 blocks of 4 x 768^2 + 2 x 768 x 3072
    # weights, 9 x 768 + 3072 - 768 + 768 biases and 4 x 768 of norms; the last norm.
    blocks = 12 * (4 * 768**2 + 2 * 768 * 3072 + 4 * 768 + 3072 + 768 + 4 * 768)
    assert shapes.vit(768, 3072, 12, 16, 224).whole.parameters == 768 * 769 + 198 * 768 + blocks + 2 * 768 == 85_798_656


def test_the_products_of_a_vit_follow_the_formula():
    """T tokens: T x (4 D^2 + 2 D F) + 2 T^2 D in a block; 196 patches of 768 numbers each to 768."""
    tokens = 197
    block = tokens * (4 * 768**2 + 2 * 768 * 3072) + 2 * tokens**2 * 768
    found = shapes.vit(768, 3072, 12, 16, 224)
    assert found.whole.products == 12 * block + 196 * 768 * 768
    assert found.whole.products / 1e9 == pytest.approx(17.6, abs=0.1)  # as publications state it, with the classifier


@pytest.mark.parametrize(
    ("name", "billions"), [("resnet-50", 4.1), ("resnet-18", 1.8), ("convnext", 4.5), ("swin", 4.5)]
)
def test_products_are_those_that_publications_state(name, billions):
    found = next(found for case, _, found in CASES if case == name)
    assert found.whole.products / 1e9 == pytest.approx(billions, rel=0.03)


@pytest.mark.parametrize("name", ["vit", "resnet-50", "resnet-18", "convnext"])
def test_products_are_those_that_torch_counts(name):
    _, config, found = next(case for case in CASES if case[0] == name)
    with torch.device("meta"):
        model = AutoModel.from_config(config).eval()
        with FlopCounterMode(display=False) as counter:
            model(pixel_values=torch.empty(1, 3, 224, 224))
    pooler = 768 * 768 if name == "vit" else 0
    assert counter.get_total_flops() == 2 * (found.whole.products + pooler)


def test_lora_has_as_many_parameters_as_the_method_itself():
    """Rank 8 beside 6 matrices of each of 12 blocks: 8 x (4 x 2 x 768 + 2 x (768 + 3072))."""
    found = shapes.vit(768, 3072, 12, 16, 224)
    assert found.whole.low_rank == 12 * 8 * (4 * 2 * 768 + 2 * (768 + 3072))


def test_a_longer_recording_costs_more_and_has_no_more_parameters():
    one, ten = (shapes.whisper(512, 2048, 6, 80, seconds).whole for seconds in (1, 10))
    assert one.parameters == ten.parameters
    # Ten times the positions: everything tenfold, and attention, 2 x D x T^2, a hundredfold.
    attention = 6 * 2 * 512 * 50**2
    assert ten.products == 10 * (one.products - attention) + 100 * attention
