"""The learner of every method that moves weights by gradient: a network, and which of its parameters are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from migaki.core.parts import Example, ParameterGroup
from migaki.core.types import Dataset, Prediction, Row

__all__ = ["TunedLearner", "save_backbone"]


class TunedLearner:
    """Hands the loop's calls to the task's network; knows what is trained by `requires_grad` alone."""

    def __init__(self, network: Any, save_weights: Callable[[Any, Path], None]) -> None:
        self.network = network
        self._save_weights = save_weights

    @property
    def labels(self) -> tuple[str, ...]:
        return self.network.labels  # type: ignore[no-any-return]

    def encode(self, dataset: Dataset) -> list[Example]:
        return self.network.encode(dataset)  # type: ignore[no-any-return]

    def parameter_groups(self) -> list[ParameterGroup]:
        """Matrices decay, vectors (norms and biases) do not: pulling a norm's scale to zero fights the norm itself."""
        trained = [(name, p) for name, p in self.network.named_parameters() if p.requires_grad]
        groups = [
            ParameterGroup([(name, p) for name, p in trained if p.ndim >= 2], decays=True),
            ParameterGroup([(name, p) for name, p in trained if p.ndim < 2], decays=False),
        ]
        return [group for group in groups if group.named]

    def parameter_counts(self) -> tuple[int, int]:
        """Trained and total number of parameters."""
        numbers = [(p.numel(), p.requires_grad) for p in self.network.parameters()]
        return sum(n for n, trained in numbers if trained), sum(n for n, _ in numbers)

    def loss(self, examples: Sequence[Example], label_smoothing: float) -> torch.Tensor:
        return self.network.loss(examples, label_smoothing)  # type: ignore[no-any-return]

    def train_mode(self, dropout: float | None) -> None:
        self.network.train()
        if dropout is not None:
            _set_dropout(self.network, dropout)

    def evaluation_mode(self) -> None:
        self.network.eval()

    def predict(
        self, rows: Sequence[Row], *, answers: int | None = None, watch: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """In evaluation mode, and back in the mode it was in afterwards."""
        training = self.network.training
        self.network.eval()
        try:
            return self.network.predict(rows, answers=answers, watch=watch)  # type: ignore[no-any-return]
        finally:
            self.network.train(training)

    def marked(self, example: Example) -> list[tuple[str, bool]]:
        return self.network.marked(example)  # type: ignore[no-any-return]

    def describe(self, examples: Sequence[Example]) -> dict[str, Any]:
        return self.network.describe(examples)  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        self._save_weights(self.network, folder)
        self.network.tokenizer.save_pretrained(folder)
        self.network.save(folder)


def _set_dropout(network: nn.Module, rate: float) -> None:
    """Put one rate into every dropout of the backbone and before the head; adapters keep their own."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Dropout) and not name.endswith("adapter_dropout"):
            module.p = rate
        # Fused attention takes its rate as a plain number on the module, and some models (OPT, Bloom) drop by a function.
        for key, value in vars(module).items():
            if "dropout" in key and isinstance(value, float):
                setattr(module, key, rate)


def save_backbone(network: Any, folder: Path) -> None:
    """Weights and configuration as transformers writes them: tied tensors once, safetensors only."""
    network.backbone.save_pretrained(folder, safe_serialization=True)
