"""How an image is altered at random before it is seen in training. Settings, and what is drawn by them; no torch."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from migaki.core.parts import Part
from migaki.core.seeds import derive, generator
from migaki.tasks.views import CHANGES, Change, Covered, Mix, View

__all__ = ["Augment", "Cutmix", "Erase", "Mixup", "Policy"]

Chance = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


class Policy(Part):
    """So many changes in a row, each drawn from a fixed list, all equally strong.

    Source: RandAugment, Cubuk et al. 2019, arXiv:1909.13719; shears are about the middle of the image, and what comes into
    view from outside is grey.
    """

    changes: Annotated[int, Field(ge=1, le=8)] = 2
    """How many of them (N in the paper)."""
    strength: Chance = 0.3
    """How strong each is, of what is possible (M / 30 in the paper, where 9 of 30 is usual)."""
    leave_out: list[Change] = Field(default_factory=list)
    """Changes that are never drawn, by name: those after which an image would have another label, such as rotate for arrows
    or solarize for day and night."""

    @model_validator(mode="after")
    def _leaves_something(self) -> Self:
        if set(self.leave_out) >= set(CHANGES):
            raise ValueError("leave_out names every change, so that none is left; leave policy out.")
        return self

    def draw(self, randomness: np.random.Generator) -> tuple[tuple[Change, float], ...]:
        """Names, and how far each goes: from -1 to 1 where it has two directions, else from 0 to 1."""
        allowed = [name for name in CHANGES if name not in self.leave_out]
        names = [allowed[int(at * len(allowed))] for at in randomness.uniform(size=self.changes)]
        signs = np.where(randomness.uniform(size=self.changes) < 0.5, -1.0, 1.0)
        return tuple(
            (name, self.strength * float(sign) if CHANGES[name].two_sided else self.strength)
            for name, sign in zip(names, signs, strict=True)
        )


class Erase(Part):
    """A rectangle of the image is covered, so that no part of it is relied upon alone.

    Source: random erasing, Zhong et al. 2017, arXiv:1708.04896.
    """

    chance: Chance = 0.5
    """Share of the images to which it happens."""
    smallest: Share = 0.02
    """Least share of the area that is covered."""
    largest: Share = 0.4
    """Greatest share of the area that is covered."""
    fill: Literal["noise", "grey"] = "noise"
    """What it is covered with: another colour at each pixel, or the grey between the darkest and the brightest."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.smallest > self.largest:
            raise ValueError(f"smallest is {self.smallest:g} and largest {self.largest:g}; give them in order.")
        return self

    def draw(self, randomness: np.random.Generator, noise_seed: int) -> Covered | None:
        """None where nothing is covered this time."""
        happens = randomness.uniform() < self.chance
        for _ in range(_ATTEMPTS):
            area, ratio = (
                randomness.uniform(self.smallest, self.largest),
                randomness.uniform(_NARROWEST, 1 / _NARROWEST),
            )
            height, width = math.sqrt(area * ratio), math.sqrt(area / ratio)
            top, left = randomness.uniform(size=2)
            if height < 1 and width < 1:
                at = (float(left) * (1 - width), float(top) * (1 - height))
                seed = noise_seed if self.fill == "noise" else None
                return Covered(at[0], at[1], at[0] + width, at[1] + height, seed) if happens else None
        return None


class Mixup(Part):
    """Two images lie over one another, and both labels count in the same proportion.

    Source: Zhang et al. 2017, arXiv:1710.09412. The other image is drawn anew for each row, from all train rows, so that what
    a row becomes does not depend on which rows stand in its step.
    """

    alpha: PositiveFloat = 0.2
    """The proportion is drawn from Beta(alpha, alpha): small, and one of the two hardly shows; 1, and every proportion is
    equally likely."""
    chance: Chance = 0.5
    """Share of the rows to which it happens."""


class Cutmix(Part):
    """A rectangle of another image is put over the image, and both labels count by their area.

    Source: Yun et al. 2019, arXiv:1905.04899. The other image is drawn as for mixup.
    """

    alpha: PositiveFloat = 1.0
    """The share of the area that stays is drawn from Beta(alpha, alpha)."""
    chance: Chance = 0.5
    """Share of the rows to which it happens."""


_ATTEMPTS, _NARROWEST = 100, 0.3
"""How often a rectangle is drawn until it fits into the image, and its ratio of sides, as in the paper."""


class Augment(Part):
    """What may happen to an image in training, in this order: crop, flip, colour, policy; then, at the size that the model
    sees, erase, and mixup or cutmix. How an image is altered follows from the seed, its number and the epoch alone, so a run
    that was interrupted sees the same."""

    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Smallest share of width and height that is kept of the image, at a random place; 1: always the whole image. 0.6 to
    0.9 is usual."""
    flip: bool = False
    """Mirror half of the images, left to right. Not where left and right differ: digits, writing, road signs."""
    colour: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share by which brightness, contrast and saturation may each change, up or down. 0.1 to 0.4 is usual."""
    policy: Policy | None = None
    """A few changes of many kinds ({changes: 2, strength: 0.3}); null: none."""
    erase: Erase | None = None
    """Cover a rectangle ({chance: 0.5}); null: never."""
    mixup: Mixup | None = None
    """Lay another image over it, labels in proportion ({alpha: 0.2}); null: never."""
    cutmix: Cutmix | None = None
    """Put a rectangle of another image into it, labels by area ({alpha: 1.0}); null: never. With mixup beside it a row meets
    one of the two at most, so their chances must not exceed 1 together."""
    views: PositiveInt | None = None
    """In how many ways each image is altered. null: in another way every time it is seen, so that nothing below the trained
    part can be kept and every image is computed from the start each time. A number: the epochs take turns with so many,
    and what is frozen below the trained part is computed once for each of them and kept."""

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.crop == 1 and not (self.flip or self.colour or self.policy or self.erase or self.mixup or self.cutmix):
            raise ValueError(
                "as it is it changes nothing; set crop, flip, colour, policy, erase, mixup or cutmix, or leave augment out."
            )
        together = sum(part.chance for part in (self.mixup, self.cutmix) if part)
        if together > 1:
            raise ValueError(
                f"a row is mixed by mixup or by cutmix, but their chances are {together:g} together; lower them to 1 at most."
            )
        return self

    def draw(self, seed: int, number: int, epoch: int) -> View:
        """How the image of row `number` is altered in epoch `epoch`."""
        epoch = epoch % self.views if self.views else epoch
        randomness = generator(seed, "augment", epoch, number)
        # Everything is drawn whether it is used or not, and each further part from a generator of its own: a crop stays
        # where it was when something else is switched on.
        share = float(randomness.uniform(self.crop, 1))
        left, top = (float(at) * (1 - share) for at in randomness.uniform(size=2))
        mirrored = bool(randomness.uniform() < 0.5)
        brightness, contrast, saturation = (1 + self.colour * float(x) for x in randomness.uniform(-1, 1, size=3))
        covered = None
        if self.erase:
            noise = derive(seed, "noise", epoch, number)
            covered = self.erase.draw(generator(seed, "erase", epoch, number), noise)
        return View(
            left,
            top,
            share,
            self.flip and mirrored,
            brightness,
            contrast,
            saturation,
            self.policy.draw(generator(seed, "policy", epoch, number)) if self.policy else (),
            covered,
            self._mixed(generator(seed, "mix", epoch, number)),
        )

    def _mixed(self, randomness: np.random.Generator) -> Mix | None:
        """With which part of which other row it is mixed; None where it stays alone."""
        which, turn, x, y = (float(at) for at in randomness.uniform(size=4))
        if self.cutmix and which < self.cutmix.chance:
            # A square part of this share of both sides, about a place that is drawn from the whole image.
            side = math.sqrt(1 - float(randomness.beta(self.cutmix.alpha, self.cutmix.alpha)))
            return Mix(turn, box=(x - side / 2, y - side / 2, x + side / 2, y + side / 2))
        if self.mixup and which >= 1 - self.mixup.chance:
            return Mix(turn, share=float(randomness.beta(self.mixup.alpha, self.mixup.alpha)))
        return None
