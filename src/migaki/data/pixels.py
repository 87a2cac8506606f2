"""Pixels of an image as a published model wants them: brought to one size, cut, scaled. Without transformers, which takes
seconds to import and three times the memory; a worker can do without it.
"""

# Shapes: C channels, H height, W width

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Pixels"]

_UNSCALED_EDGE = 384
"""From this size on ConvNeXt cuts nothing off."""


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """What `preprocessor_config.json` says, of the usual kinds."""

    size: tuple[int, int] | None
    """H and W, whatever the sides of the image are; None: see `shortest`."""
    shortest: int | None
    """Of the shorter side, the longer one in proportion; None and no `size`: as it is."""
    resample: int
    """The filter, by pillow's number."""
    crop: tuple[int, int] | None
    """H and W of the middle that is kept."""
    numbers_CV: np.ndarray
    """What stands for each of the 256 values of a channel, (3, 256) float32."""

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Pixels | None:
        """By the settings of a processor; None where they ask for something that is not known here. Whether it does the same
        as the processor is for the caller to try."""
        try:
            return cls._known(settings)
        except (KeyError, TypeError, ValueError):
            return None

    @classmethod
    def _known(cls, settings: Mapping[str, Any]) -> Pixels | None:
        size = {k: v for k, v in dict(settings.get("size") or {}).items() if v}
        resized = settings.get("do_resize", False)
        exact, shortest, crop = None, None, None
        if settings.get("do_center_crop"):
            cut = dict(settings["crop_size"])
            crop = (int(cut["height"]), int(cut["width"]))
        if resized and set(size) == {"height", "width"}:
            exact = (int(size["height"]), int(size["width"]))
        elif resized and set(size) == {"shortest_edge"}:
            shortest = int(size["shortest_edge"])
            if settings.get("crop_pct"):
                # ConvNeXt's way: a little larger than it is seen, and the middle of that.
                side = shortest
                shortest, crop = int(side / settings["crop_pct"]), (side, side)
                if side >= _UNSCALED_EDGE:
                    exact, shortest, crop = (side, side), None, None
        elif resized:
            return None
        if crop and min(exact or (shortest or 0,)) < max(crop):
            return None  # the rest would be filled up
        return cls(exact, shortest, int(settings.get("resample", 2)), crop, _numbers(settings))

    def __call__(self, image: Image.Image) -> np.ndarray:
        """(C, H, W) float32 of an RGB image."""
        from PIL import Image

        if self.size or self.shortest:
            image = image.resize(self._wide_and_tall(image), Image.Resampling(self.resample))
        if self.crop:
            left, top = (image.width - self.crop[1]) // 2, (image.height - self.crop[0]) // 2
            image = image.crop((left, top, left + self.crop[1], top + self.crop[0]))
        values_HWC = np.asarray(image)
        found_CHW = np.empty((3, *values_HWC.shape[:2]), np.float32)
        for channel, numbers_V in enumerate(self.numbers_CV):
            np.take(numbers_V, values_HWC[..., channel], out=found_CHW[channel])
        return found_CHW

    def _wide_and_tall(self, image: Image.Image) -> tuple[int, int]:
        if self.size:
            return self.size[1], self.size[0]
        assert self.shortest is not None
        short, long = sorted(image.size)
        longer = int(self.shortest * long / short)
        return (self.shortest, longer) if image.width <= image.height else (longer, self.shortest)


def _numbers(settings: Mapping[str, Any]) -> np.ndarray:
    """What becomes of each value, in the order and the formats in which transformers computes it."""
    values_V = np.arange(256, dtype=np.float64)
    if settings.get("do_rescale"):
        values_V = values_V * settings["rescale_factor"]
    numbers_CV = np.tile(values_V.astype(np.float32), (3, 1))
    if settings.get("do_normalize"):
        mean_C, std_C = (np.array(settings[name], np.float32) for name in ("image_mean", "image_std"))
        numbers_CV = (numbers_CV - mean_C.reshape(-1, 1)) / std_C.reshape(-1, 1)
    return numbers_CV
