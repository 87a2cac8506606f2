"""Image models of every family with random weights, and images whose label a model of any size can learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from migaki.core.store import file_sha256
from migaki.core.types import Dataset, LabelledMedia, Media, Place, Row
from migaki.models.base import quiet_transformers

SIZE = 32
LABELS = ("blue", "green", "red")
EVERYTHING: dict[str, Any] = {
    "crop": 0.6,
    "flip": True,
    "colour": 0.2,
    "policy": {"changes": 2},
    "erase": {"chance": 0.5},
    "mixup": {"alpha": 0.8, "chance": 0.4},
    "cutmix": {"chance": 0.4},
}
"""All that `task.augment` can do at once."""


def _resnet() -> Any:
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic")
    return ResNetModel(config)


def _vit() -> Any:
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(**_patches()), add_pooling_layer=True)


def _deit() -> Any:
    from transformers import DeiTConfig, DeiTModel

    return DeiTModel(DeiTConfig(**_patches()), add_pooling_layer=False)


def _patches() -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": SIZE,
        "patch_size": 8,
    }


def _convnext() -> Any:
    from transformers import ConvNextConfig, ConvNextModel

    return ConvNextModel(ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 2], patch_size=4))


def _swin() -> Any:
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(
        image_size=SIZE, patch_size=4, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4, drop_path_rate=0.1
    )
    return SwinModel(config)


def _lite() -> Any:
    from migaki.models.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel

    stages = [[3, 1, 1, 8, 1], [3, 2, 4, 8, 2], [5, 2, 4, 16, 1]]
    return EfficientNetLiteModel(EfficientNetLiteConfig(stem_channels=8, head_channels=24, stages=stages))


def _clip() -> Any:
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(text_config=_text(bos_token_id=0, eos_token_id=1), vision_config=_patches(), projection_dim=12)
    return CLIPModel(config)


def _siglip() -> Any:
    from transformers import SiglipConfig, SiglipModel

    model = SiglipModel(SiglipConfig(text_config=_text(projection_size=16), vision_config=_patches()))
    model.logit_scale.data.fill_(2.0)
    model.logit_bias.data.fill_(-3.0)
    return model


def _text(**more: Any) -> dict[str, Any]:
    blocks = {key: _patches()[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    ids = {"pad_token_id": 1, **more}
    return {"vocab_size": 3 + len(WORDS), "max_position_embeddings": 12, "intermediate_size": 32, **blocks, **ids}


FAMILIES = {
    "resnet": _resnet,
    "vit": _vit,
    "deit": _deit,
    "convnext": _convnext,
    "swin": _swin,
    "lite": _lite,
    "clip": _clip,
    "siglip": _siglip,
}
READERS = ("clip", "siglip")
"""Those of which one half reads."""
WORDS = ("a", "photo", "of", "something", *LABELS)
PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": SIZE, "width": SIZE},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


@torch.no_grad()
def save_image_model(folder: Path, family: str, seed: int = 0) -> Path:
    """A model of this family and its preprocessing. Convolutions and batch norms are set so that images are told apart."""
    quiet_transformers()
    torch.manual_seed(seed)
    model = FAMILIES[family]()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    for name, tensor in model.named_buffers():
        if name.endswith("running_mean"):
            tensor.normal_(std=0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    if family in READERS:
        _tokenizer(begins=family == "clip").save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR), encoding="utf-8")
    return folder


def _tokenizer(begins: bool) -> Any:
    """Of `WORDS`: a text ends with </s>, with which it is filled up too, and begins with <s> where the family wants it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(("<s>", "</s>", "?", *WORDS))}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if begins else "$A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="?"
    )


def write_images(folder: Path, n: int = 36) -> Path:
    """A folder with a folder for each label: noise in which one colour is stronger, of different sizes."""
    for i in range(n):
        label = i % len(LABELS)
        drawn = np.random.default_rng(i)
        pixels = drawn.integers(0, 150, (20 + i % 7, 24 + i % 5, 3))
        pixels[..., 2 - label] += 80
        path = folder / LABELS[label] / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8), "RGB").save(path)
    return folder


def image_rows(folder: Path, n: int = 36) -> Dataset:
    """The same as rows."""
    files = sorted(write_images(folder, n).rglob("*.png"), key=lambda path: path.name)
    rows = [
        Row(Place(str(folder), i), LabelledMedia(Media(str(path), file_sha256(path)), path.parent.name))
        for i, path in enumerate(files, 1)
    ]
    return Dataset("train", tuple(rows))
