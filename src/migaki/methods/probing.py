"""The learner of `probe`: the task's network with a head that is fitted instead of trained."""

# Shapes: N rows, D features, C classes

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from migaki.core.parts import Example, ParameterGroup
from migaki.core.types import Dataset, Row
from migaki.methods.logistic import PENALTIES, fit_each, fit_present
from migaki.methods.tuned import TunedLearner

__all__ = ["HeadLearner", "ProbeLearner", "save_nothing"]


def save_nothing(network: Any, folder: Path) -> None:
    """The backbone is the base's."""


class HeadLearner(TunedLearner):
    """A network of which only the head is set, without steps; what it was before is kept for comparison."""

    def __init__(self, network: Any) -> None:
        super().__init__(network, save_nothing)
        network.requires_grad_(False)
        network.eval()
        self._start = {name: tensor.clone() for name, tensor in network.head.state_dict().items()}

    def parameter_groups(self) -> list[ParameterGroup]:
        return []

    def parameter_counts(self) -> tuple[int, int]:
        """Those of the head, and all."""
        head = sum(p.numel() for p in self.network.head.parameters())
        return head, sum(p.numel() for p in self.network.parameters())

    @contextmanager
    def untrained(self) -> Iterator[None]:
        fitted = {name: tensor.clone() for name, tensor in self.network.head.state_dict().items()}
        normalised, self.network.normalised = self.network.normalised, False
        self.network.head.load_state_dict(self._start)
        try:
            yield
        finally:
            self.network.normalised = normalised
            self.network.head.load_state_dict(fitted)


class ProbeLearner(HeadLearner):
    """The head is the logistic regression on the kept features."""

    def __init__(self, network: Any, penalty: float | None) -> None:
        super().__init__(network)
        self._penalty = penalty

    def settle(
        self, train: Sequence[Example], valid: Sequence[Row], passes: int, note: Callable[[str], None]
    ) -> dict[str, Any]:
        network = self.network
        judged = network.encode(Dataset("valid", tuple(valid)))
        network.normalised = True
        (x_ND, wanted, weight), (v_ND, right, _) = (network.head_rows(examples) for examples in (train, judged))
        penalties = [self._penalty] if self._penalty else PENALTIES
        valid_rows = _normalised(v_ND), right
        if wanted.ndim == 2:
            fitted = fit_each(_normalised(x_ND), wanted, weight, valid_rows, penalties)
        else:
            n_classes = network.head.out_features
            fitted = fit_present(_normalised(x_ND), wanted, weight, n_classes, valid_rows, penalties)
        with torch.no_grad():
            network.head.weight.copy_(torch.from_numpy(fitted.weight_CD))
            network.head.bias.copy_(torch.from_numpy(fitted.bias_C))
        what = f"{len(x_ND)} rows" if len(x_ND) == len(train) else f"{len(x_ND)} tokens"
        note(f"head fitted on {what} with penalty {fitted.penalty:g}")
        return {"path": "features", "penalty": fitted.penalty, "tried": fitted.tried}

    def save(self, folder: Path) -> None:
        self.network.save(folder)


def _normalised(features_ND: np.ndarray) -> np.ndarray:
    """Rows of length sqrt(D), as `TextClassifier` scales them where it is `normalised`."""
    lengths_N1 = np.linalg.norm(features_ND, axis=1, keepdims=True)
    scaled_ND: np.ndarray = features_ND * (np.sqrt(features_ND.shape[1]) / np.maximum(lengths_N1, 1e-12))
    return scaled_ND
