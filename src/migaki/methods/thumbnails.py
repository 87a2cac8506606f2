"""The learner of `pixels`."""

# Shapes: F pixels

from __future__ import annotations

from typing import Any

import numpy as np

from migaki.data.images import decoded
from migaki.methods.measured import FileLearner

__all__ = ["ThumbnailLearner"]


class ThumbnailLearner(FileLearner):
    """A label for each image from its grey pixels."""

    name = "pixels"

    def __init__(self, side: int, **known: Any) -> None:
        super().__init__(**known)
        self._side = side

    def n_numbers(self) -> int:
        return self._side * self._side

    def settings(self) -> dict[str, Any]:
        return {"side": self._side, **super().settings()}

    def said(self) -> str:
        return f"{self._side} x {self._side} grey pixels"

    def measured(self, path: str) -> np.ndarray:
        """Grey values from 0 to 1."""
        small = decoded(path).convert("L").resize((self._side, self._side))
        return np.asarray(small, np.float32).reshape(-1) / 255
