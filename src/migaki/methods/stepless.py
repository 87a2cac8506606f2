"""What a learner without a network answers to the loop's questions about steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from migaki.core.parts import Example, ParameterGroup

if TYPE_CHECKING:
    import torch

__all__ = ["Stepless"]


class Stepless:
    """Learns when it settles; the loop ends at once and asks nothing of the rest."""

    def parameter_groups(self) -> list[ParameterGroup]:
        return []

    def evaluation_mode(self) -> None:
        """There is no other."""

    def compute_in(self, dtype: torch.dtype) -> None:
        raise NotImplementedError

    def groups(self, examples: Sequence[Example], max_rows: int) -> list[list[int]]:
        raise NotImplementedError

    def altered(self, example: Example, share: float, randomness: np.random.Generator) -> Example:
        raise NotImplementedError

    def loss(self, examples: Sequence[Example], label_smoothing: float) -> torch.Tensor:
        raise NotImplementedError

    def train_mode(self, dropout: float | None) -> None:
        raise NotImplementedError
