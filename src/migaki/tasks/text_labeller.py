"""The network behind `label_text`: the classifier's, with a yes or no for each label."""

# Shapes: B batch, C labels, D hidden, N rows

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from migaki.core.parts import Example
from migaki.core.seeds import derive
from migaki.core.store import read_json
from migaki.core.types import Dataset, Prediction, Row
from migaki.tasks.classifier import STATE_FILE
from migaki.tasks.text_classifier import TextClassifier, has_pairs

if TYPE_CHECKING:
    from migaki.models.base import Base
    from migaki.tasks.label_text import LabelText

__all__ = ["TextLabeller", "labels_answer", "new_labeller", "restore_labeller"]


class TextLabeller(TextClassifier):
    """Pooled features of the backbone through one linear layer to a logit for each label."""

    def __init__(
        self,
        base: Base,
        task: LabelText,
        labels: Sequence[str],
        positive_weights: Sequence[float],
        paired: bool = False,
    ) -> None:
        super().__init__(base, task, labels, positive_weights, paired)
        self.threshold = task.threshold or 0.5
        """A label is given where its probability is above it."""
        self._targets = len(self.labels)

    def _learned(self) -> Callable[[Row], tuple[tuple[int, ...], float]]:
        index = self._index()
        # Every label of a row is a yes or a no, and each of them counts once.
        weight = float(len(self.labels))
        return lambda row: (tuple(index[label] for label in row.content.labels), weight)

    def wanted(self, examples: Sequence[Example]) -> torch.Tensor:
        """1 where a label is right, else 0, (B, C)."""
        wanted_BC = torch.zeros(len(examples), len(self.labels), device=self.device)
        for i, example in enumerate(examples):
            wanted_BC[i, list(example.labels)] = 1.0
        return wanted_BC

    def head_rows(self, examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What a head is fitted to: features (N, D) of the backbone as it was loaded, whether each label is right (N, C),
        and what a right one weighs (C,)."""
        wanted_NC = self.wanted(list(examples)).cpu().numpy().astype(bool)
        return self.kept_features(examples), wanted_NC, self.class_weight.double().cpu().numpy()

    def loss(self, examples: Sequence[Example], label_smoothing: float) -> torch.Tensor:
        """Sum over rows and labels of the binary cross-entropy, scalar; a right label counts by its weight."""
        wanted_BC = self.wanted(examples) * (1 - label_smoothing) + label_smoothing / 2
        return F.binary_cross_entropy_with_logits(
            self(examples).float(), wanted_BC, pos_weight=self.class_weight, reduction="sum"
        )

    def _answering(self) -> Callable[[Row, torch.Tensor], Prediction]:
        labels, threshold = self.labels, self.threshold

        def answer(row: Row, logits_C: torch.Tensor) -> Prediction:
            return labels_answer(row, logits_C.cpu().numpy(), labels, threshold)

        return answer

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "threshold": self.threshold}

    def marked(self, example: Example) -> list[tuple[str, bool]]:
        said = ", ".join(self.labels[i] for i in example.labels) or "(none)"
        return [(self.tokenizer.decode(list(example.ids)), False), (f" -> {said}", True)]

    def describe(self, examples: Sequence[Example]) -> dict[str, Any]:
        counts = Counter(label for e in examples for label in e.row.content.labels)
        return {"labels": {label: counts[label] for label in self.labels}, "length": self.limit}


def labels_answer(row: Row, logits_C: np.ndarray, labels: Sequence[str], threshold: float) -> Prediction:
    """What the logits of all labels (C,) say about a row; its confidence is that of exactly these labels, taken as
    independent."""
    yes_C, no_C = -np.logaddexp(0, -logits_C), -np.logaddexp(0, logits_C)
    probability_C = np.exp(yes_C)
    given_C = probability_C > threshold
    given = tuple(label for label, chosen in zip(labels, given_C, strict=True) if chosen)
    wanted = row.content.labels
    known = wanted is not None and set(wanted) <= set(labels)
    wanted_C = np.array([label in (wanted or ()) for label in labels])
    return Prediction(
        place=row.place,
        output=json.dumps(given, ensure_ascii=False),
        target=None if wanted is None else json.dumps(wanted, ensure_ascii=False),
        confidence=float(np.exp(np.where(given_C, yes_C, no_C).sum())),
        loss=float(-np.where(wanted_C, yes_C, no_C).sum()) if known else None,
        targets=len(labels) if known else 0,
        scores=tuple(probability_C.tolist()),
        text=row.content.text,
        pair=row.content.pair,
        labels=given,
        part=(2.0 * len(set(given) & set(wanted)), float(len(given) + len(wanted))) if wanted is not None else None,
    )


def new_labeller(base: Base, task: LabelText, train: Dataset, seed: int) -> TextLabeller:
    """A labeller for the sorted labels of the training rows."""
    counts = Counter(label for row in train.rows for label in row.content.labels)
    labels = sorted(counts)
    balanced = [(len(train) - counts[label]) / counts[label] or 1.0 for label in labels]
    weights = balanced if task.class_weights == "balanced" else [1.0] * len(labels)
    network = TextLabeller(base, task, labels, weights, has_pairs(train))
    if task.head == "centroid":
        _start_from_two_means(network, network.encode(train))
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "head"))
            nn.init.normal_(network.head.weight, std=0.02)
            nn.init.zeros_(network.head.bias)
    return network


def restore_labeller(base: Base, task: LabelText, folder: Path) -> TextLabeller:
    """The labeller of a saved run, over the given backbone."""
    state = read_json(folder / STATE_FILE)
    kept = {name: state[name] for name in ("pooling", "prompt", "max_length", "threshold")}
    network = TextLabeller(base, task.model_copy(update=kept), state["labels"], state["class_weights"], state["paired"])
    network.load_head(folder, state)
    return network


@torch.no_grad()
def _start_from_two_means(network: TextLabeller, examples: Sequence[Example]) -> None:
    """For each label the nearer of two means, of the rows with it and without it, and how frequent it is.

    With the means a and b the logit is s ((|h - b|^2 - |h - a|^2) / 2) + log(rows with / rows without), which is linear in
    h. The scale s is one for all labels: the one under which the rows, each judged by means that leave it out, have the
    smallest binary cross-entropy.
    """
    x_ND = network.kept_features(examples).astype(np.float64)
    wanted_NC = network.wanted(list(examples)).cpu().numpy().astype(bool)
    centre_D = x_ND.mean(0)
    x_ND -= centre_D
    near_NC, with_CD = _nearness(x_ND, wanted_NC)
    far_NC, without_CD = _nearness(x_ND, ~wanted_NC)
    gap_NC = near_NC - far_NC
    n_with_C = wanted_NC.sum(0)
    prior_C = np.log((n_with_C + 0.5) / (len(x_ND) - n_with_C + 0.5))
    # One error is counted that was not seen, so that labels that separate cleanly do not ask for an endless scale.
    doubt = 1 / (len(x_ND) + 1)
    target_NC = wanted_NC * (1 - doubt) + doubt / 2

    def cross_entropy(scale: float) -> float:
        z_NC = scale * gap_NC + prior_C
        return float((np.logaddexp(0, z_NC) - target_NC * z_NC).mean())

    spread = max(float(np.abs(gap_NC).mean()), 1e-12)
    scale = min(np.logspace(-2, 2, 40) / spread, key=cross_entropy)
    weight_CD = with_CD - without_CD
    offset_C = ((with_CD**2).sum(1) - (without_CD**2).sum(1)) / 2
    network.head.weight.copy_(torch.from_numpy(scale * weight_CD))
    network.head.bias.copy_(torch.from_numpy(prior_C - scale * (offset_C + weight_CD @ centre_D)))


def _nearness(x_ND: np.ndarray, inside_NC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """h.m - |m|^2 / 2 of each row to the mean of the rows inside, the row itself left out, (N, C); and the means (C, D)."""
    n_C = np.maximum(inside_NC.sum(0), 1).astype(np.float64)
    mean_CD = (inside_NC.T.astype(np.float64) @ x_ND) / n_C[:, None]
    dot_NC, square_C, own_N1 = x_ND @ mean_CD.T, (mean_CD**2).sum(1), (x_ND**2).sum(1, keepdims=True)
    found_NC = dot_NC - square_C / 2
    others_C = np.maximum(n_C - 1, 1)
    dot_without_NC = (n_C * dot_NC - own_N1) / others_C
    square_without_NC = (n_C**2 * square_C - 2 * n_C * dot_NC + own_N1) / others_C**2
    itself_NC = inside_NC & (n_C > 1)
    return np.where(itself_NC, dot_without_NC - square_without_NC / 2, found_NC), mean_CD
