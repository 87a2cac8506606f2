"""Models that see, computed in steps: what comes before the blocks, the blocks one by one, what comes behind them.

So that a beginning that is frozen can be computed once and kept, and that the last blocks of a convolutional network can
be trained alone as those of a transformer can. A block is a residual block; what makes the picture smaller counts with the
block that it leads to. A family that is not known here is computed as a whole.
"""

# Shapes: B batch, C channels, H height, W width (of pictures) or heads, T patches, D features, E width of a head

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from migaki.core.errors import ModelError
from migaki.models.convolutions import mean_of_places, normed
from migaki.models.flat import attention_among_all, seen_by_one

__all__ = ["Eye", "eye_of", "features_of", "without_pooler"]


@dataclass(frozen=True)
class Eye:
    """The steps of one model. It is made anew for each use, because a method may have put other modules into the model."""

    before: Sequence[nn.Module]
    """Modules that are computed before the blocks."""
    blocks: Sequence[nn.Module]
    """The blocks in order, each with what makes the picture smaller before it."""
    behind: Sequence[nn.Module]
    """Modules that are computed behind the blocks."""
    begin: Callable[[torch.Tensor], torch.Tensor]
    """From pixels (B, C, H, W) to what enters the first block."""
    steps: Sequence[Callable[[torch.Tensor], torch.Tensor]]
    """Of each block from what enters it to what enters the next."""
    end: Callable[[torch.Tensor], torch.Tensor]
    """From what comes out of the last block to features (B, D)."""

    def below(self, pixels_BCHW: torch.Tensor, cut: int) -> torch.Tensor:
        """What enters block `cut`."""
        hidden = self.begin(pixels_BCHW)
        for step in self.steps[:cut]:
            hidden = step(hidden)
        return hidden

    def above(self, hidden: torch.Tensor, cut: int) -> torch.Tensor:
        """Features (B, D) of what enters block `cut`."""
        for step in self.steps[cut:]:
            hidden = step(hidden)
        return self.end(hidden)


def features_of(model: Any, pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """Features (B, D), as the model's publisher classifies by them; in steps where its family is known.

    Raises:
        ModelError: the model gives no features of an image.
    """
    if (eye := eye_of(model, pixels_BCHW.shape[-2:])) is not None:
        return eye.above(eye.below(pixels_BCHW, 0), 0)
    out = model(pixel_values=pixels_BCHW)
    pooled = getattr(out, "pooler_output", None)
    if pooled is None:
        last = getattr(out, "last_hidden_state", None)
        if last is None:
            raise ModelError(
                f"A model of type {model.config.model_type} gives no features of an image. Use one of "
                f"{', '.join(sorted(_FAMILIES))}, or another image model of transformers."
            )
        pooled = mean_of_places(last) if last.ndim == 4 else last.mean(1)
    features_BD: torch.Tensor = pooled.flatten(1)
    return features_BD


def eye_of(model: Any, size: Sequence[int] = (0, 0)) -> Eye | None:
    """The steps of a model; None where its family is not known here.

    Args:
        size: H and W of the pixels that are going to be seen; only Swin has to know.
    """
    family = _FAMILIES.get(getattr(getattr(model, "config", None), "model_type", ""))
    return None if family is None else family(model, size)


def without_pooler(model: Any) -> None:
    """Take away a trained layer behind the features by which the publisher classifies: it would be trained by nobody."""
    if model.config.model_type in ("vit", "deit"):
        model.pooler = None


def _patches(model: Any, size: Sequence[int]) -> Eye:
    """ViT and DeiT: by the first token. Source: Dosovitskiy et al. 2020, arXiv:2010.11929; Touvron et al. 2020,
    arXiv:2012.12877, of which the token for distillation has no part in the features."""
    last = len(model.layers) - 1
    return Eye(
        before=[model.embeddings],
        blocks=list(model.layers),
        behind=[model.layernorm],
        begin=model.embeddings,
        steps=[_among_patches(layer, number == last) for number, layer in enumerate(model.layers)],
        end=lambda hidden_BTD: model.layernorm(hidden_BTD)[:, 0],
    )


def _clip(model: Any, size: Sequence[int]) -> Eye:
    """The half of CLIP that sees, by its first token, as its publishers classify by it: before what leads to the space it
    shares with texts. Source: Radford et al. 2021, arXiv:2103.00020, appendix A.2."""
    return Eye(
        before=[model.embeddings, model.pre_layrnorm],
        blocks=list(model.encoder.layers),
        behind=[model.post_layernorm],
        begin=lambda pixels_BCHW: model.pre_layrnorm(model.embeddings(pixels_BCHW)),
        steps=[partial(layer, attention_mask=None) for layer in model.encoder.layers],
        end=lambda hidden_BTD: model.post_layernorm(hidden_BTD[:, 0]),
    )


def _siglip(model: Any, size: Sequence[int]) -> Eye:
    """The half of SigLIP that sees, by what its head makes of all patches. Source: Zhai et al. 2023, arXiv:2303.15343."""
    head = model.head if model.use_head else None

    def end(hidden_BTD: torch.Tensor) -> torch.Tensor:
        hidden_BTD = model.post_layernorm(hidden_BTD)
        features_BD: torch.Tensor = hidden_BTD.mean(1) if head is None else head(hidden_BTD)
        return features_BD

    return Eye(
        before=[model.embeddings],
        blocks=list(model.encoder.layers),
        behind=[model.post_layernorm, *([head] if head is not None else [])],
        begin=model.embeddings,
        steps=[partial(layer, attention_mask=None) for layer in model.encoder.layers],
        end=end,
    )


def _among_patches(layer: Any, only_first: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """A block of ViT; with `only_first` for the first token alone, (B, 1, D), which is all that is asked of the last one."""
    own = layer.attention

    def step(hidden_BTD: torch.Tensor) -> torch.Tensor:
        x_BTD = _narrow(layer.layernorm_before(hidden_BTD))
        if only_first:
            hidden_BTD = hidden_BTD[:, :1]
        hidden_BTD = hidden_BTD + layer.dropout(own.o_proj(_seen(own, x_BTD, only_first)))
        after_BTD: torch.Tensor = hidden_BTD + layer.dropout(layer.mlp(layer.layernorm_after(hidden_BTD)))
        return after_BTD

    return step


def _narrow(x: torch.Tensor) -> torch.Tensor:
    """In the number format of the products, which each of several layers would else put it into for itself."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def _seen(own: Any, x_BTD: torch.Tensor, only_first: bool) -> torch.Tensor:
    """What tokens see of each other, (B, T or 1, D)."""
    dropout = own.attention_dropout if own.training else 0.0
    asking_BTD = x_BTD[:, :1] if only_first else x_BTD
    q_BTHE = own.q_proj(asking_BTD).unflatten(-1, (-1, own.head_dim))
    if only_first and type(own.k_proj) is type(own.v_proj) is nn.Linear:
        seen_BD = seen_by_one(q_BTHE[:, 0], x_BTD, own.k_proj, own.v_proj, own.scaling, None, dropout, own.training)
        return seen_BD[:, None]
    k_BTHE, v_BTHE = (part(x_BTD).unflatten(-1, (-1, own.head_dim)) for part in (own.k_proj, own.v_proj))
    q, k, v = (x.transpose(1, 2) for x in (q_BTHE, k_BTHE, v_BTHE))
    return attention_among_all(q, k, v, dropout_p=dropout, scale=own.scaling).transpose(1, 2).flatten(2)


def _resnet(model: Any, size: Sequence[int]) -> Eye:
    """Source: He et al. 2015, arXiv:1512.03385."""
    layers = [layer for stage in model.encoder.stages for layer in stage.layers]
    stem = model.embedder
    return Eye(
        before=[stem],
        blocks=layers,
        behind=[],
        begin=lambda pixels_BCHW: stem.pooler(_convolved(stem.embedder, pixels_BCHW)),
        steps=[_residual(layer) for layer in layers],
        end=mean_of_places,
    )


def _residual(layer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A block of ResNet."""

    def step(hidden_BCHW: torch.Tensor) -> torch.Tensor:
        beside_BCHW = hidden_BCHW
        if (shortcut := layer.shortcut) and not isinstance(shortcut, nn.Identity):
            beside_BCHW = normed(shortcut.convolution, shortcut.normalization, hidden_BCHW)
        for part in layer.layer:
            hidden_BCHW = _convolved(part, hidden_BCHW)
        after_BCHW: torch.Tensor = layer.activation(hidden_BCHW + beside_BCHW)
        return after_BCHW

    return step


def _convolved(part: Any, x_BCHW: torch.Tensor) -> torch.Tensor:
    """Convolution, norm and activation of ResNet."""
    if isinstance(part.activation, nn.ReLU):
        return normed(part.convolution, part.normalization, x_BCHW, (0.0, float("inf")))
    out_BCHW: torch.Tensor = part.activation(normed(part.convolution, part.normalization, x_BCHW))
    return out_BCHW


def _convnext(model: Any, size: Sequence[int]) -> Eye:
    """Source: Liu et al. 2022, arXiv:2201.03545; version 2: Woo et al. 2023, arXiv:2301.00808."""
    blocks = []
    for stage in model.encoder.stages:
        blocks += [
            nn.Sequential(*(stage.downsampling_layer if number == 0 else ()), layer)
            for number, layer in enumerate(stage.layers)
        ]
    return Eye(
        before=[model.embeddings],
        blocks=blocks,
        behind=[model.layernorm],
        begin=model.embeddings,
        steps=blocks,
        end=lambda h_BCHW: model.layernorm(mean_of_places(h_BCHW)),
    )


def _swin(model: Any, size: Sequence[int]) -> Eye:
    """Source: Liu et al. 2021, arXiv:2103.14030."""
    patch = model.config.patch_size
    grid = tuple(-(-side // patch) for side in size)
    blocks: list[nn.Module] = []
    steps: list[Callable[[torch.Tensor], torch.Tensor]] = []
    smaller: Any = None
    for stage in model.encoder.layers:
        for layer in stage.blocks:
            blocks.append(nn.ModuleList([layer] if smaller is None else [smaller[0], layer]))
            steps.append(_in_grid(layer, grid, smaller))
            smaller = None
        if stage.downsample is not None:
            smaller = stage.downsample, grid
            grid = tuple((side + 1) // 2 for side in grid)
    return Eye(
        before=[model.embeddings],
        blocks=blocks,
        behind=[model.layernorm],
        begin=lambda pixels_BCHW: model.embeddings(pixels_BCHW)[0],
        steps=steps,
        end=lambda hidden_BTD: model.layernorm(hidden_BTD).mean(1),
    )


def _lite(model: Any, size: Sequence[int]) -> Eye:
    return Eye(
        before=[model.stem, model.stem_norm],
        blocks=list(model.blocks),
        behind=[model.top, model.top_norm],
        begin=model.begin,
        steps=list(model.blocks),
        end=lambda h_BCHW: mean_of_places(model.end(h_BCHW)),
    )


def _in_grid(layer: Any, grid: Any, smaller: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A block of Swin over patches that lie in a grid of this size; `smaller` is what makes the grid and the size before."""

    def step(hidden_BTD: torch.Tensor) -> torch.Tensor:
        if smaller is not None:
            hidden_BTD = smaller[0](hidden_BTD, smaller[1])
        out: torch.Tensor = layer(hidden_BTD, grid)[0]
        return out

    return step


_FAMILIES: dict[str, Callable[[Any, Sequence[int]], Eye]] = {
    "vit": _patches,
    "deit": _patches,
    "resnet": _resnet,
    "convnext": _convnext,
    "convnextv2": _convnext,
    "swin": _swin,
    "efficientnet_lite": _lite,
    "clip_vision_model": _clip,
    "siglip_vision_model": _siglip,
}
