"""How an image is altered at random before it is seen in training. Settings, and what is drawn by them; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, PositiveInt, model_validator

from migaki.core.parts import Part
from migaki.core.seeds import generator

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Augment", "View"]


class Augment(Part):
    """What may happen to an image in training. How an image is altered follows from the seed, its number and the epoch
    alone, so a run that was interrupted sees the same."""

    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Smallest share of width and height that is kept of the image, at a random place; 1: always the whole image. 0.6 to
    0.9 is usual."""
    flip: bool = False
    """Mirror half of the images, left to right. Not where left and right differ: digits, writing, road signs."""
    colour: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share by which brightness, contrast and saturation may each change, up or down. 0.1 to 0.4 is usual."""
    views: PositiveInt | None = None
    """In how many ways each image is altered. null: in another way every time it is seen. A number: the epochs take turns
    with so many, and what is frozen below the trained part is computed once for each of them and kept."""

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.crop == 1 and not self.flip and not self.colour:
            raise ValueError("as it is it changes nothing; set crop, flip or colour, or leave augment out.")
        return self

    def draw(self, seed: int, number: int, epoch: int) -> View:
        """How the image of row `number` is altered in epoch `epoch`."""
        randomness = generator(seed, "augment", epoch % self.views if self.views else epoch, number)
        # Everything is drawn whether it is used or not: a crop stays where it was when flip is switched on.
        share = float(randomness.uniform(self.crop, 1))
        left, top = (float(at) * (1 - share) for at in randomness.uniform(size=2))
        mirrored = bool(randomness.uniform() < 0.5)
        brightness, contrast, saturation = (1 + self.colour * float(x) for x in randomness.uniform(-1, 1, size=3))
        return View(left, top, share, self.flip and mirrored, brightness, contrast, saturation)


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

    def of(self, image: Image.Image) -> Image.Image:
        """What is seen of an RGB image, at least one pixel."""
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
        return seen
