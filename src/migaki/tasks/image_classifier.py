"""The network behind `classify_image`: an image backbone and a linear head over its features."""

# Shapes: B batch, C channels, H height, W width, D features

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from migaki.core.errors import DataError, ModelError, Problem, RecipeError
from migaki.core.parts import Example
from migaki.core.store import read_json
from migaki.core.types import Dataset, LabelledMedia, Media, Place, Row
from migaki.data.images import decoded
from migaki.models.vision import without_pooler
from migaki.tasks.classifier import STATE_FILE, Classifier, labels_of_rows, start_head
from migaki.tasks.image_body import ImageBody, Sight

if TYPE_CHECKING:
    from migaki.models.base import Base
    from migaki.tasks.classify_image import ClassifyImage

__all__ = ["ImageClassifier", "new_classifier", "restore_classifier"]


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
        body = _body(base, Sight(self.pixels, self.identity, self._views), size)
        super().__init__(base, labels, class_weights, body.width)
        self.backbone, self.body = backbone, body
        self.processor = processor
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
        images = []
        for example in examples:
            path = example.row.content.media.path
            try:
                image = decoded(path)
            except ValueError as error:
                raise DataError(f"{example.row.place}: {path} {error}. It was whole when the run began.") from None
            images.append(example.view.of(image) if example.view else image)
        return _prepared(self.processor, images)

    def identity(self, example: Example) -> bytes:
        return f"{example.row.content.media.sha256} {example.view}\n".encode()

    def made_by(self) -> list[str]:
        return [json.dumps(self.processor.to_dict(), sort_keys=True, default=str)]

    def varied(self, example: Example, number: int, epoch: int) -> Example:
        if self._augment is None:
            return example
        return replace(example, view=self._augment.draw(self._seed, number, epoch))

    def _views(self, examples: Sequence[Example]) -> list[Example]:
        n_views = self._augment.views if self._augment and self._augment.views else 1
        return [self.varied(e, number, view) for view in range(n_views) for number, e in enumerate(examples)]

    def row_of(self, place: Place, text: str, label: str | None, pair: str | None = None) -> Row:
        return Row(place, LabelledMedia(Media(text, ""), label))

    def word_vectors(self, words: Sequence[str]) -> torch.Tensor:
        found = "this model sees images and knows no words; use few_shot, probe or retrieve."
        raise RecipeError([Problem("method.kind", found)])

    def marked(self, example: Example) -> list[tuple[str, bool]]:
        return [(example.row.content.text, False), (f" -> {self.labels[example.labels[0]]}", True)]


def _prepared(processor: Any, images: Sequence[Any]) -> torch.Tensor:
    """(B, C, H, W) float32."""
    arrays = [processor(image, return_tensors="np")["pixel_values"][0] for image in images]
    return torch.from_numpy(np.stack(arrays).astype(np.float32, copy=False))


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

    tall, wide = (tuple(_prepared(processor, [Image.new("RGB", size)]).shape[2:]) for size in ((48, 64), (64, 48)))
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
