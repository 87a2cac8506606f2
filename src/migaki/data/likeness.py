"""Images that are almost the same: found by a hash of what is brighter than what, then compared pixel by pixel.

The hash says of 64 neighbours from left to right, and of 64 from top to bottom, which one is brighter, on tiny grey copies.
Another size, another format, other light or stronger compression change few of its bits. What is turned, mirrored or cut
is not found. Source: Krawetz 2013, "Kind of Like That" (difference hash).
"""

# Shapes: N images, W words of 64 bits

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["LIKE", "difference_hash", "grey_copy", "near_hashes"]

LIKE = 0.98
"""Correlation of grey copies from which two images are called near copies."""
_SIDE = 8
_MOST_BITS = 12
"""Of 128 bits, in which hashes of near copies differ at most; of unlike pictures about 64 do."""
_COMPARED = 32
_AT_ONCE = 512
_MOST_PARTNERS = 50
"""Of thousands of pictures that are all alike each is paired with so many others at most."""


def difference_hash(image: Image.Image) -> str:
    """128 bits of a grey image, as 32 hexadecimal digits: which of two neighbours is brighter.

    >>> from PIL import Image
    >>> difference_hash(Image.linear_gradient("L"))  # brighter from top to bottom, equal from left to right
    '0000000000000000ffffffffffffffff'
    """
    from PIL.Image import Resampling

    across = np.asarray(image.resize((_SIDE + 1, _SIDE), Resampling.BOX), np.int16)
    down = np.asarray(image.resize((_SIDE, _SIDE + 1), Resampling.BOX), np.int16)
    bits = np.concatenate([(np.diff(across, axis=1) > 0).ravel(), (np.diff(down, axis=0) > 0).ravel()])
    return np.packbits(bits).tobytes().hex()


def near_hashes(hashes: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of hashes that differ in at most 12 of 128 bits, in order; of each i the first 50.

    >>> near_hashes(["00" * 16, "ff" * 16, "07" + "00" * 15])
    [(0, 2)]
    """
    words_NW = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint64).reshape(len(hashes), 2)
    found: list[tuple[int, int]] = []
    for at in range(0, len(hashes), _AT_ONCE):
        few_NW = words_NW[at : at + _AT_ONCE]
        differing_NN = np.bitwise_count(few_NW[:, None] ^ words_NW[None, at:]).sum(-1)
        for i, differing_N in enumerate(differing_NN):
            later = i + 1 + np.flatnonzero(differing_N[i + 1 :] <= _MOST_BITS)
            found += [(at + i, at + int(j)) for j in later[:_MOST_PARTNERS]]
    return found


def grey_copy(image: Image.Image) -> np.ndarray:
    """A copy of 32 x 32 grey pixels, (1024,) float32, less its mean and of length 1, so that the product of two is their
    correlation; zeros where the image is of a single shade."""
    grey: np.ndarray = np.asarray(image.convert("L").resize((_COMPARED, _COMPARED)), np.float32).reshape(-1)
    grey = grey - grey.mean()
    return grey / (float(np.sqrt((grey * grey).sum())) or 1.0)
