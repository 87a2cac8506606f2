"""What models of images and of sounds are made of: weights and multiplications of their parts, from their shapes.

Each family is written as its paper and transformers' class have it, so that parameters add up to the last one. Counted are
products of weights and what comes in, and in attention those of two hidden vectors; norms and activations are not.
"""

# B batch, C channels, D hidden, F inner, H height, W width, K side of a filter, T tokens or positions, V words

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Part", "Shapes", "convnext", "efficientnet_lite0", "resnet", "speech", "swin", "vit", "wave", "whisper"]

_RANK = 8
"""The default of lora."""
_BAND_FILTER = 3
_WINDOW_S, _POSITIONS_A_SECOND = 30.0, 50
"""Of Whisper: what its decoder listens to at once, and how many vectors a second becomes."""


@dataclass(frozen=True)
class Part:
    """Some layers."""

    parameters: int = 0
    products: int = 0
    """Multiplications for one row."""
    numbers: int = 0
    """What is remembered of one row for a backward pass."""
    low_rank: int = 0
    """Parameters of LoRA beside those of its layers that are adapted by default."""

    def __add__(self, other: Part) -> Part:
        return Part(
            self.parameters + other.parameters,
            self.products + other.products,
            self.numbers + other.numbers,
            self.low_rank + other.low_rank,
        )


@dataclass(frozen=True)
class Shapes:
    """A model, without the head of a task."""

    width: int
    """Numbers in the features of a row."""
    before: Part
    blocks: Sequence[Part]
    behind: Part = field(default_factory=Part)

    @property
    def whole(self) -> Part:
        return sum(self.blocks, self.before + self.behind)

    @property
    def top(self) -> Part:
        """What `frozen` trains: the last block and what stands behind it."""
        return self.blocks[-1] + self.behind


def _linear(n_in: int, n_out: int, positions: int, bias: bool = True, adapted: bool = True) -> Part:
    return Part(
        n_out * (n_in + bias), n_out * n_in * positions, n_in * positions, _RANK * (n_in + n_out) if adapted else 0
    )


def _filter(
    n_in: int, n_out: int, side: int, positions: int, *, groups: int = 1, bias: bool = False, adapted: bool = False
) -> Part:
    """A convolution of `side` x `side` to so many places, whose output alone is remembered."""
    own = n_out * (n_in // groups) * side**2
    return Part(
        own + n_out * bias,
        own * positions,
        n_out * positions,
        _RANK * (n_in * side**2 + n_out) if adapted and groups == 1 else 0,
    )


def _norm(width: int, positions: int = 0) -> Part:
    return Part(2 * width, 0, width * positions)


def _transformer(width: int, inner: int, seen: int, positions: int, bias: int = 4) -> Part:
    """A block with attention over `seen` positions each; `bias`: how many of its four matrices have one."""
    attention = Part(
        4 * width**2 + bias * width,
        4 * width**2 * positions + 2 * width * seen * positions,
        5 * width * positions,
        4 * _RANK * 2 * width,
    )
    wide = _linear(width, inner, positions) + _linear(inner, width, positions)
    # The activation remembers what came in beside what went out.
    return attention + wide + _norm(width, positions) + _norm(width, positions) + Part(0, 0, inner * positions)


def vit(hidden: int, inner: int, layers: int, patch: int, size: int, tokens: int = 1) -> Shapes:
    """ViT with one token beside the patches, DeiT with two. Source: arXiv:2010.11929, arXiv:2012.12877."""
    patches = (size // patch) ** 2
    positions = patches + tokens
    begin = Part(hidden * (3 * patch**2 + 1), hidden * 3 * patch**2 * patches, hidden * positions)
    before = begin + Part(hidden * (positions + tokens))
    return Shapes(hidden, before, [_transformer(hidden, inner, positions, positions)] * layers, _norm(hidden))


def resnet(depths: Sequence[int], widths: Sequence[int], stem: int, bottleneck: bool, size: int) -> Shapes:
    """Source: He et al. 2015, arXiv:1512.03385; strides in the 3 x 3 filter, as transformers' default has them."""

    def filters(n_in: int, n_out: int, side: int, places: int) -> Part:
        return _filter(n_in, n_out, side, places, adapted=True) + _norm(n_out)

    side = -(-size // 2)
    before = filters(3, stem, 7, side**2)
    side, n_in, blocks = -(-side // 2), stem, []
    for stage, (depth, n_out) in enumerate(zip(depths, widths, strict=True)):
        for number in range(depth):
            wide, side = side, -(-side // 2) if stage and not number else side
            if bottleneck:
                inner = n_out // 4
                block = filters(n_in, inner, 1, wide**2) + filters(inner, inner, 3, side**2)
                block += filters(inner, n_out, 1, side**2)
            else:
                block = filters(n_in, n_out, 3, side**2) + filters(n_out, n_out, 3, side**2)
            if n_in != n_out or wide != side:
                block += filters(n_in, n_out, 1, side**2)
            blocks.append(block)
            n_in = n_out
    return Shapes(n_in, before, blocks)


def convnext(depths: Sequence[int], widths: Sequence[int], size: int) -> Shapes:
    """Source: Liu et al. 2022, arXiv:2201.03545."""
    side, blocks = size // 4, []
    before = _filter(3, widths[0], 4, side**2, bias=True) + _norm(widths[0], side**2)
    smaller = Part()
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        if stage:
            side //= 2
            smaller = _norm(widths[stage - 1], 4 * side**2) + _filter(widths[stage - 1], width, 2, side**2, bias=True)
        for _ in range(depth):
            own = _filter(width, width, 7, side**2, groups=width, bias=True) + _norm(width, side**2)
            own += _linear(width, 4 * width, side**2) + _linear(4 * width, width, side**2)
            blocks.append(smaller + own + Part(width, 0, 5 * width * side**2))
            smaller = Part()
    return Shapes(widths[-1], before, blocks, _norm(widths[-1]))


def swin(depths: Sequence[int], width: int, heads: Sequence[int], window: int, size: int) -> Shapes:
    """Source: Liu et al. 2021, arXiv:2103.14030."""
    side, blocks = size // 4, []
    before = _filter(3, width, 4, side**2, bias=True) + _norm(width, side**2)
    smaller = Part()
    for stage, depth in enumerate(depths):
        for _ in range(depth):
            places = Part((2 * window - 1) ** 2 * heads[stage])
            blocks.append(smaller + places + _transformer(width, 4 * width, min(window, side) ** 2, side**2))
            smaller = Part()
        if stage + 1 < len(depths):
            side //= 2
            smaller = _norm(4 * width, side**2) + _linear(4 * width, 2 * width, side**2, bias=False)
            width *= 2
    return Shapes(width, before, blocks, _norm(width))


def efficientnet_lite0(size: int) -> Shapes:
    """Source: Tan & Le 2019, arXiv:1905.11946. Kernel, stride, expansion, channels and blocks of each stage, as in
    `models.efficientnet_lite`, whose module needs torch."""
    stages = [(3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3)]
    stages += [(5, 2, 6, 192, 4), (3, 1, 6, 320, 1)]

    def pixelwise(n_in: int, n_out: int, places: int) -> Part:
        return _filter(n_in, n_out, 1, places, adapted=True) + _norm(n_out)

    side, n_in, blocks = -(-size // 2), 32, []
    before = _filter(3, n_in, 3, side**2) + _norm(n_in)
    for kernel, stride, expansion, n_out, depth in stages:
        for number in range(depth):
            inner, block = n_in * expansion, Part()
            if expansion > 1:
                block += pixelwise(n_in, inner, side**2)
            side = -(-side // (1 if number else stride))
            block += _filter(inner, inner, kernel, side**2, groups=inner) + _norm(inner)
            blocks.append(block + pixelwise(inner, n_out, side**2))
            n_in = n_out
    return Shapes(1280, before, blocks, pixelwise(n_in, 1280, side**2))


def whisper(hidden: int, inner: int, layers: int, bands: int, seconds: float) -> Shapes:
    """The encoder alone, on the frames that exist. Source: Radford et al. 2022, arXiv:2212.04356."""
    positions = max(1, round(seconds * _POSITIONS_A_SECOND))
    # Filters of three frames: one to every frame, of which a second has twice as many, one to every second of them.
    first = _linear(bands * _BAND_FILTER, hidden, 2 * positions, adapted=False)
    second = _linear(hidden * _BAND_FILTER, hidden, positions, adapted=False)
    places = Part(round(_WINDOW_S * _POSITIONS_A_SECOND) * hidden)
    # Keys have no bias.
    blocks = [_transformer(hidden, inner, positions, positions, bias=3)] * layers
    return Shapes(hidden, first + second + places, blocks, _norm(hidden))


def speech(hidden: int, inner: int, layers: int, below: int, bands: int, vocabulary: int, tokens: float) -> Shapes:
    """All of Whisper on a whole window, `layers` blocks of the decoder writing so many tokens above `below` of the encoder."""
    n, heard = max(1, round(tokens)), round(_WINDOW_S * _POSITIONS_A_SECOND)
    ear = whisper(hidden, inner, below, bands, _WINDOW_S)
    listening = Part(
        4 * hidden**2 + 3 * hidden,
        2 * hidden**2 * (n + heard) + 2 * hidden * heard * n,
        hidden * (3 * n + 2 * heard),
        4 * _RANK * 2 * hidden,
    )
    block = _transformer(hidden, inner, n, n, bias=3) + listening + _norm(hidden, n)
    # The words are the output matrix too; 448 positions can be written.
    words = Part(vocabulary * hidden + 448 * hidden, vocabulary * hidden * n, vocabulary * n)
    return Shapes(hidden, ear.before + ear.behind + words, [*ear.blocks, *[block] * layers], _norm(hidden))


def wave(hidden: int, inner: int, layers: int, seconds: float, large: bool) -> Shapes:
    """wav2vec 2.0 and HuBERT: seven convolutions over samples, one over positions, blocks.

    Args:
        large: whether the convolutions have biases and a norm each, as those of the large models do, or one norm in all.
    Source: Baevski et al. 2020, arXiv:2006.11477; Hsu et al. 2021, arXiv:2106.07447.
    """
    channels, n, n_in = 512, round(16_000 * seconds), 1
    before = Part()
    for kernel, stride in ((10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2):
        n = max(1, (n - kernel) // stride + 1)
        before += _linear(n_in * kernel, channels, n, bias=large, adapted=False) + Part(0, 0, channels * n)
        before += _norm(channels) if large or n_in == 1 else Part()
        n_in = channels
    groups, nearby = 16, 128
    # What is drawn instead of a masked position, and a length for each place of the filter over positions.
    beside = Part(hidden + hidden * hidden // groups * nearby + hidden + nearby, hidden * hidden // groups * nearby * n)
    before += _norm(channels, n) + _linear(channels, hidden, n) + beside + _norm(hidden, n)
    return Shapes(hidden, before, [_transformer(hidden, inner, n, n)] * layers)
