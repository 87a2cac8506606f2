"""How an image backbone is computed: as many images at once as fit, and what never changes only once. A `Trunk`."""

# Shapes: B batch, C channels, H height, W width, D features, M numbers that enter a block, for one image

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from migaki.core.parts import Example
from migaki.models.vision import Eye, eye_of, features_of
from migaki.training.activations import Activations, activations_of

__all__ = ["ImageBody", "Sight"]

_ACTIVATION_BYTES = 1 << 30
_MOST_AT_ONCE, _MOST_WITHOUT_GRADIENT = 64, 32


@dataclass(frozen=True)
class Sight:
    """What the body asks about examples."""

    pixels: Callable[[Sequence[Example]], torch.Tensor]
    """(B, C, H, W), as the model wants them."""
    identity: Callable[[Example], bytes]
    """Equal for examples with equal pixels."""
    views: Callable[[Sequence[Example]], list[Example]]
    """Every way in which the examples are going to be seen in training, the whole of one way after the other."""
    ahead: Callable[[Iterable[Example]], AbstractContextManager[None]]
    """Inside, the pixels of these are read before they are asked for."""


class ImageBody:
    """Features of images."""

    use_flat = False
    edits: Any = None

    def __init__(self, backbone: Any, sight: Sight, size: tuple[int, int]) -> None:
        """`size`: H and W of the pixels."""
        self.backbone, self._sight, self._size = backbone, sight, size
        self._cut = 0
        self._kept: list[Activations] = []
        self._shape: tuple[int, ...] = ()
        self.width, bytes_per_image = self._measured()
        self._at_once = min(_MOST_AT_ONCE, max(1, _ACTIVATION_BYTES // bytes_per_image))

    def _measured(self) -> tuple[int, int]:
        """D, and bytes that an image leaves behind for a backward pass if everything is trained."""
        parameters = list(self.backbone.parameters())
        trained = [p.requires_grad for p in parameters]
        self.backbone.requires_grad_(True)
        try:
            # What one more image adds: whatever is remembered of weights is remembered once.
            (width, one), (_, two) = self._left_behind(1), self._left_behind(2)
        finally:
            for p, was in zip(parameters, trained, strict=True):
                p.requires_grad_(was)
        return width, max(1, two - one)

    def _left_behind(self, n_images: int) -> tuple[int, int]:
        """D, and bytes that are remembered after a forward pass."""
        kept: dict[int, int] = {}

        def remember(tensor: torch.Tensor) -> torch.UntypedStorage:
            # Not the tensor: one that a function gave out and remembers would hold the function that holds it, for ever.
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return storage

        pixels_BCHW = torch.zeros(n_images, 3, *self._size, device=self.device)
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(remember, _never):
            features_BD = features_of(self.backbone, _laid_out(pixels_BCHW))
        return features_BD.shape[1], sum(kept.values())

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device  # type: ignore[no-any-return]

    def _eye(self) -> Eye | None:
        return eye_of(self.backbone, self._size)

    def groups(self, examples: Sequence[Example], max_rows: int | None = None) -> list[list[int]]:
        """In order, as many at once as fit into memory with what is remembered for a backward pass."""
        return _pieces(len(examples), min(max_rows or self._at_once, self._at_once))

    def groups_without_gradient(self, examples: Sequence[Example]) -> list[list[int]]:
        """The same where nothing has to be remembered."""
        return _pieces(len(examples), _MOST_WITHOUT_GRADIENT)

    def features(self, examples: Sequence[Example]) -> torch.Tensor:
        """(B, D); of images whose beginning is kept from there on."""
        eye = self._eye()
        kept = [self._find(example) for example in examples] if self._kept else [None]
        if eye is not None and all(h_M is not None for h_M in kept):
            hidden = torch.from_numpy(np.stack(kept)).view(len(kept), *self._shape)  # type: ignore[arg-type]
            return eye.above(_laid_out(hidden.to(self.device)), self._cut)
        return features_of(self.backbone, self._seen(examples))

    def _seen(self, examples: Sequence[Example]) -> torch.Tensor:
        return _laid_out(self._sight.pixels(examples).to(self.device))

    # What is kept below the first trained block

    def first_trained(self) -> int:
        """Number of the first block with a trained parameter; 0 where something before the blocks is trained, or where
        the steps of the model are not known."""
        eye = self._eye()
        if eye is None:
            return 0
        inside, behind = (
            {id(p) for m in modules for p in m.parameters()} for modules in (eye.blocks, [*eye.blocks, *eye.behind])
        )
        if any(p.requires_grad and id(p) not in inside | behind for p in self.backbone.parameters()):
            return 0
        trained = [i for i, block in enumerate(eye.blocks) if any(p.requires_grad for p in block.parameters())]
        return min(trained, default=len(eye.blocks))

    def _below(self, cut: int) -> list[nn.Module]:
        eye = self._eye()
        assert eye is not None
        return [*eye.before, *eye.blocks[:cut]]

    def frozen_parts(self) -> list[nn.Module]:
        """What lies below the first trained block."""
        cut = self.first_trained()
        return self._below(cut) if cut else []

    def keep(
        self,
        train: Sequence[Example],
        valid: Callable[[], Sequence[Example]],
        passes: int,
        made_by: Sequence[str],
        note: Callable[[str], None],
    ) -> bool:
        """Compute what enters the first trained block once and read it from then on, where that pays: see `Trunk.keep`."""
        cut = self.first_trained()
        if not cut:
            return False
        self._cut = cut
        self._shape = tuple(self._entering(train[:1]).shape[1:])
        width = int(np.prod(self._shape))
        seen = self._sight.views(train)
        # A view among several is seen in every so many epochs only.
        passes = passes * len(train) // max(1, len(seen))
        facts = [self._fingerprint(cut), str(cut), *made_by]
        for examples in (seen, valid()):
            rows: Any = [self._key(example) for example in examples]

            def compute(examples: Sequence[Example] = examples) -> Iterator[tuple[Sequence[int], list[np.ndarray]]]:
                with self._sight.ahead(examples):
                    for group in self.groups_without_gradient(examples):
                        hidden = self._entering([examples[i] for i in group]).float().cpu()
                        yield group, list(hidden.reshape(len(group), 1, -1).numpy())

            found = activations_of(rows, facts, width, compute, passes=passes, note=note)
            if found is not None:
                self._kept.append(found)
        return bool(self._kept)

    @torch.no_grad()
    def _entering(self, examples: Sequence[Example]) -> torch.Tensor:
        """What enters the first trained block."""
        eye = self._eye()
        assert eye is not None
        for part in self._below(self._cut):
            part.eval()
        return eye.below(self._seen(examples), self._cut)

    def _fingerprint(self, cut: int) -> str:
        """sha256 of the architecture and of all weights below block `cut`."""
        digest = hashlib.sha256(f"{type(self.backbone).__name__} {self.backbone.config.to_json_string()}".encode())
        for part in self._below(cut):
            for name, tensor in part.state_dict().items():
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _key(self, example: Example) -> tuple[tuple[int, ...]]:
        """What stands for an image where token ids stand for a text: one row of vectors, known by eight numbers."""
        digest = hashlib.sha256(self._sight.identity(example)).digest()
        return (tuple(np.frombuffer(digest, np.int32).tolist()),)

    def knows(self, example: Example) -> bool:
        """Whether its beginning is kept, so that its pixels are not needed."""
        return bool(self._kept) and self._find(example) is not None

    def _find(self, example: Example) -> np.ndarray | None:
        key: Any = self._key(example)
        return next((h_1M[0] for kept in self._kept if (h_1M := kept.find(key)) is not None), None)


def _never(storage: torch.UntypedStorage) -> torch.Tensor:
    raise AssertionError("what was only measured is not differentiated")


def _pieces(n: int, size: int) -> list[list[int]]:
    """Numbers 0 to n - 1 in as few pieces of at most `size` as it takes, all of about one length."""
    ends = [round(n * (i + 1) / pieces) for pieces in [-(-n // size)] for i in range(pieces)]
    return [list(range(start, end)) for start, end in pairwise([0, *ends])]


def _laid_out(x: torch.Tensor) -> torch.Tensor:
    """Pictures with the channels of a place side by side, in which convolutions on a processor are 1.4 times as fast
    (EfficientNet-Lite0, measured)."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
