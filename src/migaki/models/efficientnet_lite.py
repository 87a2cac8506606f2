"""EfficientNet-Lite as a model of transformers' kind, so that it is loaded, saved and trained as all others are.

The variant of EfficientNet for small machines: no squeeze-and-excite, ReLU6, a stem and a head that are never scaled.
Source: Tan & Le 2019, arXiv:1905.11946, and TensorFlow's reference code of the Lite variants, whose padding it has.
"""

# Shapes: B batch, C channels, H height, W width

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from migaki.models.convolutions import mean_of_places, normed

__all__ = ["LITE0", "EfficientNetLiteConfig", "EfficientNetLiteModel"]

LITE0 = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
"""Of each stage of the smallest one: kernel, stride of its first block, expansion, channels, blocks."""
_RELU6 = (0.0, 6.0)


class EfficientNetLiteConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Shapes of an EfficientNet-Lite."""

    model_type = "efficientnet_lite"
    stem_channels: int = 32
    head_channels: int = 1280
    stages: Sequence[Sequence[int]] = LITE0
    norm_eps: float = 1e-3


class _SamePadded(nn.Conv2d):
    """A convolution whose output is as large as its input over its stride; an odd row of zeros goes below and to the right."""

    def sides(self, x_BCHW: torch.Tensor) -> list[int]:
        """Zeros to the left and to the right, above and below."""
        sides = []
        for size, kernel, stride in zip(x_BCHW.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            sides += [missing // 2, missing - missing // 2]
        return sides

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's own name
        return super().forward(F.pad(input, self.sides(input)))


class _Block(nn.Module):
    """Expand, filter each channel alone, project; what came in is added where the shapes are equal."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, expansion: int, eps: float) -> None:
        super().__init__()
        inner = n_in * expansion
        self.expand: nn.Module | None = nn.Conv2d(n_in, inner, 1, bias=False) if expansion > 1 else None
        self.expand_norm: nn.Module | None = nn.BatchNorm2d(inner, eps) if expansion > 1 else None
        self.depthwise = _SamePadded(inner, inner, kernel, stride, groups=inner, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(inner, eps)
        self.project = nn.Conv2d(inner, n_out, 1, bias=False)
        self.project_norm = nn.BatchNorm2d(n_out, eps)
        self.adds = stride == 1 and n_in == n_out

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        h_BCHW = x_BCHW
        if self.expand is not None and self.expand_norm is not None:
            h_BCHW = normed(self.expand, self.expand_norm, h_BCHW, _RELU6)
        h_BCHW = normed(self.depthwise, self.depthwise_norm, h_BCHW, _RELU6)
        out_BCHW = normed(self.project, self.project_norm, h_BCHW)
        return x_BCHW + out_BCHW if self.adds else out_BCHW


class EfficientNetLiteModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """Stem, blocks, one more convolution, and the mean over the places."""

    config_class = EfficientNetLiteConfig
    base_model_prefix = "efficientnet_lite"
    main_input_name = "pixel_values"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.stem = _SamePadded(3, config.stem_channels, 3, 2, bias=False)
        self.stem_norm = nn.BatchNorm2d(config.stem_channels, config.norm_eps)
        blocks, n_in = [], config.stem_channels
        for kernel, stride, expansion, n_out, depth in config.stages:
            for number in range(depth):
                blocks.append(_Block(n_in, n_out, kernel, 1 if number else stride, expansion, config.norm_eps))
                n_in = n_out
        self.blocks = nn.ModuleList(blocks)
        self.top = nn.Conv2d(n_in, config.head_channels, 1, bias=False)
        self.top_norm = nn.BatchNorm2d(config.head_channels, config.norm_eps)
        self.post_init()  # type: ignore[no-untyped-call]

    def begin(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """What enters the first block."""
        return normed(self.stem, self.stem_norm, pixels_BCHW, _RELU6)

    def end(self, h_BCHW: torch.Tensor) -> torch.Tensor:
        """The last feature map, of what came out of the last block."""
        return normed(self.top, self.top_norm, h_BCHW, _RELU6)

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        h_BCHW = self.begin(pixel_values)
        for block in self.blocks:
            h_BCHW = block(h_BCHW)
        h_BCHW = self.end(h_BCHW)
        pooled_BC: Any = mean_of_places(h_BCHW)
        last: Any = h_BCHW
        return BaseModelOutputWithPooling(last_hidden_state=last, pooler_output=pooled_BC)


AutoConfig.register(EfficientNetLiteConfig.model_type, EfficientNetLiteConfig, exist_ok=True)
AutoModel.register(EfficientNetLiteConfig, EfficientNetLiteModel, exist_ok=True)
