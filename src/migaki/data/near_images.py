"""Near copies among image files: candidates by their hash, each then compared on small grey copies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from migaki.core.errors import DataError
from migaki.core.types import Media
from migaki.data.images import decoded
from migaki.data.likeness import grey_copy, near_hashes

__all__ = ["near_images"]


def near_images(media: Sequence[Media], threshold: float) -> list[tuple[int, int, float]]:
    """Pairs (i, j, correlation) with i < j whose grey copies correlate by at least `threshold`, in order.

    Pictures of a single shade are near nothing. Only images that take part in a candidate are read.

    Args:
        media: as they were looked into, with their `likeness`.
        threshold: 0..1.
    Raises:
        DataError: a file cannot be read any more.
    """
    copies: dict[int, np.ndarray] = {}

    def copy(number: int) -> np.ndarray:
        if number not in copies:
            try:
                copies[number] = grey_copy(decoded(media[number].path))
            except ValueError as error:
                raise DataError(f"{media[number].path} {error}. It was whole when it was looked into.") from None
        return copies[number]

    pairs = ((i, j, float(copy(i) @ copy(j))) for i, j in near_hashes([one.likeness for one in media]))
    return [(i, j, share) for i, j, share in pairs if share >= threshold]
