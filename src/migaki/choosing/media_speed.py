"""How fast this machine computes models of images and sounds: measured on one small model of each kind, and kept."""

# B batch, C channels, H height, W width

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from migaki.choosing import shapes
from migaki.core.cache import Cache
from migaki.core.store import read_json
from migaki.environment import cpu_name
from migaki.models.efficientnet_lite import EfficientNetLiteConfig
from migaki.models.vision import features_of, without_pooler
from migaki.training.precision import measured_precision

__all__ = ["Rate", "measured_rate"]

_FORMAT, _FILE = "1", "rate.json"
_IMAGES, _SIZE = 4, 224
_TRIES, _ENOUGH_S = 2, 2.0
"""The best of so many tries, fewer where they take long."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Of one kind of model on this machine, in the number format that is fastest here."""

    forward_s: float
    """Seconds a multiplication, computed only."""
    through_s: float
    """Computed and differentiated for what comes in, weights frozen."""
    trained_s: float
    """Computed and differentiated for weights and what comes in."""
    update_s: float
    """Seconds of AdamW a parameter and step."""
    bytes_a_number: int
    """Of what is remembered for a backward pass."""


def measured_rate(family: str) -> Rate:
    """Some seconds of measurement the first time. Whatever consists of transformer blocks is taken to be as fast as ViT."""
    kind = family if family in ("resnet", "convnext", "swin", "efficientnet_lite") else "vit"
    facts = [_FORMAT, kind, cpu_name(), str(torch.get_num_threads()), torch.__version__, transformers.__version__]

    def make(folder: Path) -> None:
        (folder / _FILE).write_text(json.dumps({"machine": facts, "rate": asdict(_measure(kind))}, indent=1) + "\n")

    key = hashlib.sha256("\x1f".join(facts).encode()).hexdigest()[:32]
    return Rate(**read_json(Cache("media-speed").get(key, make) / _FILE)["rate"])


def _example(kind: str) -> tuple[Any, shapes.Shapes]:
    """The configuration of a small model, and its parts."""
    if kind == "resnet":
        return transformers.ResNetConfig(), shapes.resnet([3, 4, 6, 3], [256, 512, 1024, 2048], 64, True, _SIZE)
    if kind == "convnext":
        return transformers.ConvNextConfig(), shapes.convnext([3, 3, 9, 3], [96, 192, 384, 768], _SIZE)
    if kind == "swin":
        return transformers.SwinConfig(), shapes.swin([2, 2, 6, 2], 96, [3, 6, 12, 24], 7, _SIZE)
    if kind == "efficientnet_lite":
        return EfficientNetLiteConfig(), shapes.efficientnet_lite0(_SIZE)
    return transformers.ViTConfig(num_hidden_layers=4), shapes.vit(768, 3072, 4, 16, _SIZE)


def _measure(kind: str) -> Rate:
    config, found = _example(kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = transformers.AutoModel.from_config(config).eval()  # type: ignore[no-untyped-call]
        pixels_BCHW = torch.randn(_IMAGES, 3, _SIZE, _SIZE).contiguous(memory_format=torch.channels_last)
    without_pooler(model)
    dtype = measured_precision(model, torch.device("cpu"), "auto").torch_dtype

    def run(trained: bool, backward: bool) -> Callable[[], None]:
        def work() -> None:
            model.requires_grad_(trained)
            model.zero_grad(set_to_none=True)
            x_BCHW = pixels_BCHW.requires_grad_(backward)
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32), torch.set_grad_enabled(backward):
                features_BD = features_of(model, x_BCHW)
            if backward:
                features_BD.float().sum().backward()  # type: ignore[no-untyped-call]

        return work

    products = found.whole.products * _IMAGES
    forward_s, through_s = (_best(run(False, backward)) / products for backward in (False, True))
    trained_s = _best(run(True, True)) / products
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.grad is not None], fused=True)
    update_s = _best(optimizer.step) / found.whole.parameters
    return Rate(forward_s, through_s, trained_s, update_s, dtype.itemsize)


def _best(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    tried: list[float] = []
    while len(tried) < _TRIES and (not tried or time.perf_counter() - began < _ENOUGH_S):
        at = time.perf_counter()
        work()
        tried.append(time.perf_counter() - at)
    return min(tried)
