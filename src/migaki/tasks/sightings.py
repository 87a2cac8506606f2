"""From an image file to the numbers that a model sees: decoded, altered, prepared. In this process or in a worker; no torch."""

# Shapes: C channels, H height, W width

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from migaki.data.images import decoded
from migaki.tasks.views import View

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Sighting", "Sights"]


@dataclass(frozen=True, slots=True)
class Sighting:
    """An image as it is going to be seen."""

    path: str
    view: View | None = None
    """None: as it is."""


class Sights:
    """From sightings to pixels. A function of the file and the view alone, which a worker can be given."""

    def __init__(self, prepare: Callable[[Image.Image], np.ndarray]) -> None:
        """`prepare`: from an RGB image of any size to (C, H, W) float32, always of one size."""
        from PIL import Image

        self._prepare = prepare
        dark_CHW, bright_CHW = (prepare(Image.new("RGB", (64, 64), colour)) for colour in ("black", "white"))
        self.size = (dark_CHW.shape[1], dark_CHW.shape[2])
        """H and W."""
        middle = (slice(None), self.size[0] // 2, self.size[1] // 2)
        self._dark_C, self._bright_C = dark_CHW[middle], bright_CHW[middle]

    def __call__(self, sighting: Sighting) -> np.ndarray:
        """(C, H, W) float32. Raises ValueError, which begins with the path, where a file cannot be read any more."""
        view = sighting.view
        pixels_CHW = self._alone(sighting.path, view)
        if view is None or view.mix is None or view.other is None:
            return pixels_CHW
        media, other = view.other
        return view.mix.of(pixels_CHW, self._alone(media.path, other))

    def _alone(self, path: str, view: View | None) -> np.ndarray:
        try:
            image = decoded(path)
        except ValueError as error:
            raise ValueError(f"{path} {error}") from None
        if view is None:
            return self._prepare(image)
        pixels_CHW = self._prepare(view.of(image))
        return view.covered.over(pixels_CHW, self._dark_C, self._bright_C) if view.covered else pixels_CHW
