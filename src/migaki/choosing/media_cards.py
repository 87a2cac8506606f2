"""Cards of models that see and models that hear; what follows from their shapes is in `shapes`."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, TypeAdapter, model_validator

from migaki.choosing import shapes
from migaki.choosing.shapes import Shapes
from migaki.core.codec import parse_yaml
from migaki.core.parts import Part

__all__ = ["MediaCard", "MediaTask", "media_cards"]

MediaTask = Literal["classify_image", "classify_audio", "transcribe"]
Family = Literal["resnet", "vit", "deit", "convnext", "swin", "efficientnet_lite", "whisper", "wave"]
_NEEDED: dict[str, tuple[str, ...]] = {
    "resnet": ("size", "depths", "widths"),
    "vit": ("size", "patch", "layers", "hidden", "inner"),
    "deit": ("size", "patch", "layers", "hidden", "inner"),
    "convnext": ("size", "depths", "widths"),
    "swin": ("size", "depths", "widths", "heads"),
    "efficientnet_lite": ("size",),
    "whisper": ("layers", "hidden", "inner", "vocabulary"),
    "wave": ("layers", "hidden", "inner"),
}
_STEM, _WINDOW = 64, 7
"""Channels before the blocks of a ResNet, and the window of Swin, which all cards share."""
_LETTERS = 32
"""What a model trained by CTC chooses from at each position."""


class MediaCard(Part):
    """One pretrained model of images or of sounds."""

    reference: str
    """As `model:` in a recipe names it."""
    title: str
    family: Family
    """Architecture; decides which of the shapes it has. `wave` is wav2vec 2.0 and HuBERT."""
    tasks: Annotated[list[MediaTask], Field(min_length=1)]
    millions: PositiveFloat
    """Parameters in millions, as its publisher says; without the head of the task it was trained for."""
    size: PositiveInt | None = None
    """Pixels on each side of what it sees."""
    patch: PositiveInt | None = None
    depths: list[PositiveInt] = []  # noqa: RUF012 - pydantic copies it
    """Blocks of each stage."""
    widths: list[PositiveInt] = []  # noqa: RUF012
    """Channels of each stage; of Swin those of the first one."""
    heads: list[PositiveInt] = []  # noqa: RUF012
    """Of each stage of Swin."""
    plain: bool = False
    """Whether the blocks of a ResNet are two 3 x 3 filters, as in ResNet-18 and 34, and no bottleneck."""
    layers: PositiveInt | None = None
    """Blocks; of Whisper those of the half that writes."""
    layers_below: PositiveInt | None = None
    """Blocks of the half of Whisper that hears; null: as many."""
    hidden: PositiveInt | None = None
    inner: PositiveInt | None = None
    bands: PositiveInt = 80
    """Bands of frequencies that Whisper hears."""
    vocabulary: PositiveInt | None = None
    large: bool = False
    """Whether the convolutions of wav2vec 2.0 have biases and norms each."""
    languages: Annotated[list[str], Field(min_length=1)]
    """Codes, the best one first; `multi` for about a hundred, `any` where no words are seen or heard."""
    licence: str

    @model_validator(mode="after")
    def _has_its_shapes(self) -> Self:
        missing = [name for name in _NEEDED[self.family] if not getattr(self, name)]
        if missing:
            raise ValueError(f"a {self.family} has to say its {', '.join(missing)}.")
        return self

    def speaks(self, language: str) -> bool:
        """Whether it is made for this language, `any` being told where it does not matter."""
        return language == "any" or bool({language, "multi", "any"} & set(self.languages))

    @property
    def parameters(self) -> int:
        """Of the whole model, for the task that takes most of it."""
        return self.shapes(self.tasks[-1]).whole.parameters

    def shapes(self, task: MediaTask, seconds: float = 1.0, tokens: float = 1.0) -> Shapes:
        """Its parts for one row.

        Args:
            task: of Whisper, the half that hears is enough where nothing is written.
            seconds: of a recording.
            tokens: of a transcript.
        """
        wide, inner, layers = self.hidden or 0, self.inner or 0, self.layers or 0
        side = self.size or 0
        match self.family:
            case "resnet":
                return shapes.resnet(self.depths, self.widths, _STEM, not self.plain, side)
            case "convnext":
                return shapes.convnext(self.depths, self.widths, side)
            case "swin":
                return shapes.swin(self.depths, self.widths[0], self.heads, _WINDOW, side)
            case "efficientnet_lite":
                return shapes.efficientnet_lite0(side)
            case "vit" | "deit":
                return shapes.vit(wide, inner, layers, self.patch or 1, side, 2 if self.family == "deit" else 1)
            case "wave":
                return shapes.wave(wide, inner, layers, seconds, self.large)
        below = self.layers_below or layers
        if task == "transcribe":
            return shapes.speech(wide, inner, layers, below, self.bands, self.vocabulary or 0, tokens)
        return shapes.whisper(wide, inner, below, self.bands, seconds)


def media_cards() -> list[MediaCard]:
    """The cards that come with migaki."""
    text = files("migaki.choosing").joinpath("media.yaml").read_text("utf-8")
    values, _ = parse_yaml(text, "media.yaml")
    return TypeAdapter(list[MediaCard]).validate_python(values)
