"""One way to look at an image: what is done to it before and after it is brought to the size that a model sees. No torch."""

# Shapes: C channels, H height, W width

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from migaki.core.types import Media

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["CHANGES", "Change", "Covered", "Mix", "View"]

Change = Literal[
    "nothing",
    "shear_x",
    "shear_y",
    "shift_x",
    "shift_y",
    "rotate",
    "brightness",
    "saturation",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
]

_GREY = (128, 128, 128)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A change of the policy."""

    of: Callable[[Image.Image, float], Image.Image]
    """The image, and how far: from 0, not at all, to 1, as far as is possible; -1 the other way."""
    two_sided: bool = True


@dataclass(frozen=True, slots=True)
class Covered:
    """A rectangle that is covered, its sides as shares of width and height from the upper left corner."""

    left: float
    top: float
    right: float
    bottom: float
    noise_seed: int | None
    """From which the noise is drawn that covers it; None: it becomes grey."""

    def over(self, pixels_CHW: np.ndarray, dark_C: np.ndarray, bright_C: np.ndarray) -> np.ndarray:
        """A copy with the rectangle covered, its borders at the nearest pixels.

        Args:
            dark_C: the number that stands for the darkest pixel, and
            bright_C: for the brightest, of each channel; noise is even between them, and grey lies in the middle.
        """
        rows, columns = _pixels(self.left, self.top, self.right, self.bottom, pixels_CHW.shape[1:])
        covered_CHW = pixels_CHW.copy()
        target_CHW = covered_CHW[:, rows, columns]
        middle_C11, reach_C11 = ((dark_C + bright_C) / 2)[:, None, None], ((bright_C - dark_C) / 2)[:, None, None]
        if self.noise_seed is None:
            target_CHW[:] = middle_C11
        else:
            drawn = np.random.Generator(np.random.Philox(key=self.noise_seed))
            target_CHW[:] = middle_C11 + reach_C11 * drawn.uniform(-1, 1, target_CHW.shape)
        return covered_CHW


@dataclass(frozen=True, slots=True)
class Mix:
    """How an image is mixed with another."""

    turn: float
    """From 0 to 1: which of the others it is."""
    share: float = 1.0
    """Of the image itself where both lie over one another."""
    box: tuple[float, float, float, float] | None = None
    """Left, top, right, bottom, as shares of width and height: what is taken from the other instead. It may reach beyond the
    borders."""

    def partner(self, number: int, n: int) -> int:
        """The number of the other row, of n of which this is `number`; never itself, and all others equally likely.

        >>> [Mix(turn).partner(2, 4) for turn in (0.0, 0.34, 0.99)]
        [3, 0, 1]
        """
        return (number + 1 + int(self.turn * (n - 1))) % n

    def own_share(self, height: int, width: int) -> float:
        """What the image itself, and with it its label, counts at this size: 1 - the pixels that are taken over the whole.

        >>> Mix(0.0, box=(0.5, 0.5, 1.5, 1.0)).own_share(4, 4)
        0.75
        """
        if self.box is None:
            return self.share
        rows, columns = _pixels(*self.box, (height, width))
        taken: int = (rows.stop - rows.start) * (columns.stop - columns.start)
        return 1 - taken / (height * width)

    def of(self, own_CHW: np.ndarray, other_CHW: np.ndarray) -> np.ndarray:
        """Both in one, (C, H, W) float32."""
        if self.box is None:
            share = np.float32(self.share)
            return share * own_CHW + (1 - share) * other_CHW
        rows, columns = _pixels(*self.box, own_CHW.shape[1:])
        mixed_CHW = own_CHW.copy()
        mixed_CHW[:, rows, columns] = other_CHW[:, rows, columns]
        return mixed_CHW


def _pixels(left: float, top: float, right: float, bottom: float, size: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of an image of (H, W) that lie in a rectangle of shares, its borders at the nearest pixels."""
    height, width = size
    rows = slice(*(min(height, max(0, round(at * height))) for at in (top, bottom)))
    return rows, slice(*(min(width, max(0, round(at * width))) for at in (left, right)))


@dataclass(frozen=True, slots=True)
class View:
    """One way to look at an image."""

    left: float
    """Where the part that is seen begins, as a share of the width."""
    top: float
    share: float
    """Of width and height, so that the sides keep their ratio."""
    mirrored: bool
    brightness: float
    """Factors; 1 changes nothing."""
    contrast: float
    saturation: float
    changes: tuple[tuple[Change, float], ...] = ()
    """Of the policy, one after the other, and how far each goes."""
    covered: Covered | None = None
    mix: Mix | None = None
    other: tuple[Media, View] | None = None
    """The image it is mixed with, and how that is looked at."""

    def of(self, image: Image.Image) -> Image.Image:
        """What is seen of an RGB image, at least one pixel; before it is brought to the size that a model sees."""
        from PIL import ImageEnhance, ImageOps

        width, height = (max(1, round(self.share * side)) for side in image.size)
        left, top = min(round(self.left * image.width), image.width - width), round(self.top * image.height)
        top = min(top, image.height - height)
        seen = image.crop((left, top, left + width, top + height))
        if self.mirrored:
            seen = ImageOps.mirror(seen)
        for change, factor in (
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
        ):
            if factor != 1:
                seen = change(seen).enhance(factor)
        for name, far in self.changes:
            seen = CHANGES[name].of(seen, far)
        return seen

    def key(self) -> str:
        """Equal for views under which equal images look the same, wherever the files lie."""
        if self.other is None:
            return str(self)
        media, view = self.other
        return f"{replace(self, other=None)} {media.sha256} {view}"


def _enhanced(name: str) -> Callable[[Image.Image, float], Image.Image]:
    def change(image: Image.Image, far: float) -> Image.Image:
        from PIL import ImageEnhance

        return getattr(ImageEnhance, name)(image).enhance(1 + 0.9 * far)  # type: ignore[no-any-return]

    return change


def _operation(name: str, *amount: Callable[[float], int]) -> Callable[[Image.Image, float], Image.Image]:
    def change(image: Image.Image, far: float) -> Image.Image:
        from PIL import ImageOps

        return getattr(ImageOps, name)(image, *(of(far) for of in amount))  # type: ignore[no-any-return]

    return change


def _moved(
    matrix: Callable[[float, tuple[int, int]], tuple[float, ...]],
) -> Callable[[Image.Image, float], Image.Image]:
    """By six numbers (of `far` and (width, height)) that say where each pixel comes from: x' = a x + b y + c, y' = d x + e y + f."""

    def change(image: Image.Image, far: float) -> Image.Image:
        from PIL import Image

        affine: Any = Image.Transform.AFFINE
        return image.transform(image.size, affine, matrix(far, image.size), Image.Resampling.BILINEAR, fillcolor=_GREY)

    return change


def _rotated(image: Image.Image, far: float) -> Image.Image:
    from PIL import Image

    return image.rotate(30 * far, Image.Resampling.BILINEAR, fillcolor=_GREY)


_SHEAR, _SHIFT = 0.3, 150 / 331
"""As far as the paper goes: 0.3 of a side, and 150 of 331 pixels."""

CHANGES: Mapping[Change, _Kind] = {
    "nothing": _Kind(lambda image, _: image, two_sided=False),
    "shear_x": _Kind(_moved(lambda far, size: (1, _SHEAR * far, -_SHEAR * far * size[1] / 2, 0, 1, 0))),
    "shear_y": _Kind(_moved(lambda far, size: (1, 0, 0, _SHEAR * far, 1, -_SHEAR * far * size[0] / 2))),
    "shift_x": _Kind(_moved(lambda far, size: (1, 0, round(-_SHIFT * far * size[0]), 0, 1, 0))),
    "shift_y": _Kind(_moved(lambda far, size: (1, 0, 0, 0, 1, round(-_SHIFT * far * size[1])))),
    "rotate": _Kind(_rotated),
    "brightness": _Kind(_enhanced("Brightness")),
    "saturation": _Kind(_enhanced("Color")),
    "contrast": _Kind(_enhanced("Contrast")),
    "sharpness": _Kind(_enhanced("Sharpness")),
    "posterize": _Kind(_operation("posterize", lambda far: 8 - round(4 * far)), two_sided=False),
    "solarize": _Kind(_operation("solarize", lambda far: round(255 * (1 - far))), two_sided=False),
    "autocontrast": _Kind(_operation("autocontrast"), two_sided=False),
    "equalize": _Kind(_operation("equalize"), two_sided=False),
}
"""By the name that a recipe gives it."""
