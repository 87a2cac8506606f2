"""The network behind `classify_image`: an image backbone and a linear head over its features."""

# Shapes: B batch, C channels, H height, W width, D features

from __future__ import annotations

import copy
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from migaki.core.errors import DataError, ModelError
from migaki.core.parts import Example
from migaki.core.store import read_json
from migaki.core.types import Dataset, LabelledMedia, Media, Place, Row
from migaki.data.pixels import Pixels
from migaki.data.workers import Ahead, at_hand
from migaki.models.meanings import word_head
from migaki.models.vision import without_pooler
from migaki.tasks.classifier import STATE_FILE, Classifier, labels_of_rows, start_head
from migaki.tasks.image_body import ImageBody, Sight
from migaki.tasks.sightings import Sighting, Sights

if TYPE_CHECKING:
    from PIL import Image

    from migaki.models.base import Base
    from migaki.tasks.classify_image import ClassifyImage

__all__ = ["ImageClassifier", "new_classifier", "restore_classifier"]

_MOST_AHEAD, _AHEAD_BYTES = 128, 256 << 20
"""Images that wait to be asked for, and the memory they take."""
_TRIED = ((48, 64), (64, 48), (37, 91), (256, 256), (301, 227))
"""H and W of the images on which two ways to prepare them are compared."""


class ImageClassifier(Classifier):
    """Features of the backbone through one linear layer to the logits of the label map.

    The statistics of batch norms stay as they were pretrained, in training too. So a gradient does not depend on which
    images are computed together, and nothing has to be kept of a run but its weights.
    """

    def __init__(
        self, base: Base, task: ClassifyImage, labels: Sequence[str], class_weights: Sequence[float], seed: int = 0
    ) -> None:
        """`seed`: by which images are altered."""
        backbone = cast(Any, base.model)
        without_pooler(backbone)
        processor, size = _processor(base, task.size)
        body = _body(base, Sight(self.pixels, self.identity, self._views, self.ahead), size)
        super().__init__(base, labels, class_weights, body.width)
        self.backbone, self.body = backbone, body
        self.processor = processor
        self._sights = Sights(_prepare(processor))
        self._aheads: deque[Ahead] = deque()
        """What is read ahead now, the innermost first."""
        self._augment, self._seed = task.augment, seed
        if task.augment:
            self.varies = "in_views" if task.augment.views else "always"
        self._focal_gamma = task.focal_gamma
        self.to(backbone.device)

    def train(self, mode: bool = True) -> ImageClassifier:
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def encode(self, dataset: Dataset) -> Sequence[Example]:
        """Rows with their class index; pixels are read when they are computed."""
        learned = self._learned()
        return [Example(row, (), *learned(row)) for row in dataset.rows]

    def inputs(self, rows: Sequence[Row]) -> list[Example]:
        return [Example(row, (), (), 0.0) for row in rows]

    def features(self, examples: Sequence[Example]) -> torch.Tensor:
        return self.body.features(examples)  # type: ignore[no-any-return]

    def pixels(self, examples: Sequence[Example]) -> torch.Tensor:
        """(B, C, H, W) float32, decoded now and prepared as the model's publisher says.

        Raises:
            DataError: a file cannot be read any more.
        """
        return torch.from_numpy(np.stack([self._seen(example) for example in examples]))

    def _seen(self, example: Example) -> np.ndarray:
        """(C, H, W), by whoever was asked for it first."""
        key = self.identity(example)
        coming = next((future for ahead in self._aheads if (future := ahead.take(key)) is not None), None)
        try:
            return self._sights(_sighting(example)) if coming is None else coming.result()
        except ValueError as error:
            raise DataError(f"{example.row.place}: {error}. It was whole when the run began.") from None

    @contextmanager
    def ahead(self, coming: Iterable[Example]) -> Iterator[None]:
        pool = at_hand()
        if pool is None:
            yield
            return
        needed = ((self.identity(e), _sighting(e)) for e in coming if not self.body.knows(e))
        height, width = self._sights.size
        most = min(_MOST_AHEAD, _AHEAD_BYTES // (12 * height * width))
        ahead = Ahead(pool, self._sights, needed, max(2 * len(pool), most))
        self._aheads.appendleft(ahead)
        try:
            yield
        finally:
            self._aheads.remove(ahead)
            ahead.close()

    def identity(self, example: Example) -> bytes:
        view = example.view.key() if example.view else None
        return f"{example.row.content.media.sha256} {view}\n".encode()

    def made_by(self) -> list[str]:
        return [json.dumps(self.processor.to_dict(), sort_keys=True, default=str)]

    def varied(self, example: Example, number: int, epoch: int, others: Sequence[Example]) -> Example:
        if self._augment is None:
            return example
        view = self._augment.draw(self._seed, number, epoch)
        if view.mix is None or len(others) < 2:
            return replace(example, view=view)
        partner = view.mix.partner(number, len(others))
        other = others[partner]
        seen_so = replace(self._augment.draw(self._seed, partner, epoch), mix=None)
        share = view.mix.own_share(*self._sights.size)
        return replace(
            example,
            view=replace(view, other=(other.row.content.media, seen_so)),
            labels=(*example.labels, *other.labels),
            shares=(share, 1 - share),
            weight=share * example.weight + (1 - share) * other.weight,
        )

    def _views(self, examples: Sequence[Example]) -> list[Example]:
        n_views = self._augment.views if self._augment and self._augment.views else 1
        return [self.varied(e, number, view, examples) for view in range(n_views) for number, e in enumerate(examples)]

    def row_of(self, place: Place, text: str, label: str | None, pair: str | None = None) -> Row:
        return Row(place, LabelledMedia(Media(text, ""), label))

    def answer_by_words(self, base: Base, words: Sequence[str]) -> None:
        self.head = word_head(base, words).to(self.device)

    def marked(self, example: Example) -> list[tuple[str, bool]]:
        return [(example.row.content.text, False), (f" -> {self.labels[example.labels[0]]}", True)]


def _sighting(example: Example) -> Sighting:
    return Sighting(example.row.content.media.path, example.view)


class _Published:
    """An image as the model's own processor prepares it, (C, H, W) float32."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __call__(self, image: Image.Image) -> np.ndarray:
        pixels_CHW = self._processor(image, return_tensors="np")["pixel_values"][0]
        return np.asarray(pixels_CHW, np.float32)


def _prepare(processor: Any) -> Callable[[Image.Image], np.ndarray]:
    """What gives the pixels that the processor gives: our own shorter way where that is the same to the last bit on images
    of several shapes, else the processor itself."""
    from PIL import Image

    published, own = _Published(processor), Pixels.of(processor.to_dict())
    if own is None:
        return published
    drawn = np.random.default_rng(0)
    for height, width in _TRIED:
        image = Image.fromarray(drawn.integers(0, 256, (height, width, 3), dtype=np.uint8), "RGB")
        if not np.array_equal(published(image), own(image)):
            return published
    return own


def _processor(base: Base, side: int | None) -> tuple[Any, tuple[int, int]]:
    """The model's own preprocessing, made to give images of this side, and their H and W.

    Raises:
        ModelError: images come out of it in different sizes, or not at all.
    """
    try:
        processor, size = base.processor, _size_made_by(base.processor)
        if side is not None and size != (side, side):
            processor = copy.deepcopy(processor)
            for name in ("size", "crop_size"):
                if (wanted := getattr(processor, name, None)) is not None:
                    # All in proportion: what is cut off at the edges stays the same share.
                    setattr(processor, name, {k: round(v * side / max(size)) for k, v in dict(wanted).items() if v})
            size = _size_made_by(processor)
    except (ValueError, RuntimeError, TypeError, KeyError) as error:
        raise ModelError(
            f"{base.reference}: images cannot be prepared for it ({_first_line(error)}). Check that its "
            "preprocessor_config.json gives images one size (size: height, width)."
        ) from error
    return processor, size


def _size_made_by(processor: Any) -> tuple[int, int]:
    """H and W. Raises ValueError where they depend on the image."""
    from PIL import Image

    published = _Published(processor)
    tall, wide = (published(Image.new("RGB", size)).shape[1:] for size in ((48, 64), (64, 48)))
    if tall != wide:
        raise ValueError(f"they come out of it in different sizes, {tall} and {wide}")
    return int(tall[0]), int(tall[1])


def _body(base: Base, sight: Sight, size: tuple[int, int]) -> ImageBody:
    try:
        return ImageBody(base.model, sight, size)
    except (ValueError, RuntimeError, TypeError) as error:
        raise ModelError(
            f"{base.reference} cannot see images of {size[0]} x {size[1]} pixels ({_first_line(error)}). Leave task.size out; "
            "if it is, check that preprocessor_config.json belongs to the model."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def new_classifier(base: Base, task: ClassifyImage, train: Dataset, seed: int) -> ImageClassifier:
    """A classifier whose label map is the sorted labels of the training rows, whatever order they come in."""
    labels, weights = labels_of_rows(train, task.class_weights)
    network = ImageClassifier(base, task, labels, weights, seed)
    start_head(network, task.head, train, seed)
    return network


def restore_classifier(base: Base, task: ClassifyImage, folder: Path) -> ImageClassifier:
    """The classifier of a saved run: its label map and head over the given backbone."""
    state = read_json(folder / STATE_FILE)
    network = ImageClassifier(base, task, state["labels"], state["class_weights"])
    network.load_head(folder, state)
    return network
