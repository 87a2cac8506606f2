"""The learner of `pixels`."""

# Shapes: N rows, F pixels

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from migaki.core.errors import DataError
from migaki.core.types import Row
from migaki.data.images import decoded
from migaki.methods.measured import MeasuredLearner

__all__ = ["ThumbnailLearner"]


class ThumbnailLearner(MeasuredLearner):
    """A label for each image from its grey pixels."""

    name = "pixels"

    def __init__(
        self, labels: Sequence[str], class_weights: Sequence[float], shares: Sequence[float], side: int
    ) -> None:
        self._side = side
        super().__init__(labels, class_weights, shares)

    def n_numbers(self) -> int:
        return self._side * self._side

    def settings(self) -> dict[str, Any]:
        return {"side": self._side}

    def said(self) -> str:
        return f"{self._side} x {self._side} grey pixels"

    def measured(self, rows: Sequence[Row]) -> np.ndarray:
        """Grey values from 0 to 1, (N, F)."""
        found_NF = np.zeros((len(rows), self.n_numbers()), np.float32)
        for number, row in enumerate(rows):
            path = row.content.media.path
            try:
                small = decoded(path).convert("L").resize((self._side, self._side))
            except ValueError as error:
                raise DataError(f"{row.place}: {path} {error}. It was whole when the run began.") from None
            found_NF[number] = np.asarray(small, np.float32).reshape(-1) / 255
        return found_NF
