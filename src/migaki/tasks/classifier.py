"""What every classifier has in common, whatever its rows are: a backbone's features, a linear head, a label map.

A new kind of rows brings two things. A `Trunk`: how the backbone is computed, what of it may be kept below the trained
part. And a `Classifier` that turns rows into examples and examples into features. Methods know nothing else of both.
"""

# Shapes: B batch, D features, C classes, N rows, P pairs of a row and one of its labels

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from migaki.core.cache import Cache
from migaki.core.parts import Example
from migaki.core.seeds import derive
from migaki.core.types import Dataset, Labelled, LabelledMedia, Place, Prediction, Row
from migaki.models.meanings import WordHead

if TYPE_CHECKING:
    from migaki.models.base import Base

__all__ = [
    "HEAD_FILE",
    "STATE_FILE",
    "Classifier",
    "Trunk",
    "focal_factor",
    "labels_of_rows",
    "start_from_centroids",
    "start_head",
]

_FEATURES_FORMAT, _FEATURE_BYTES = "1", 1 << 30
HEAD_FILE, STATE_FILE = "head.safetensors", "task.json"


class Trunk(Protocol):
    """How a backbone is computed for one kind of rows. `tasks.body.Body` is the one of token ids."""

    use_flat: bool
    """Whether it is computed in another way than transformers does, which is then compared before a training."""
    edits: Any
    """What a method changes in the outputs of blocks, if it does; see `tasks.body.Edits`."""

    @property
    def width(self) -> int:
        """Numbers in a vector that comes out of a block."""
        ...

    def groups(self, examples: Sequence[Example], max_rows: int | None = None) -> list[list[int]]:
        """Which examples of a step are computed together, so that memory stays within a bound; every one is in one group."""
        ...

    def groups_without_gradient(self, examples: Sequence[Example]) -> list[list[int]]:
        """The same where nothing has to be remembered for a backward pass."""
        ...

    def frozen_parts(self) -> list[nn.Module]:
        """What lies below the first trained block, which stays in evaluation mode; empty where nothing does."""
        ...

    def keep(
        self,
        train: Sequence[Example],
        valid: Callable[[], Sequence[Example]],
        passes: int,
        made_by: Sequence[str],
        note: Callable[[str], None],
    ) -> bool:
        """Compute what enters the first trained block once and take it from there from now on, where that pays.

        Args:
            train: the examples that are going to be seen.
            valid: makes those that are judged, if they are needed.
            passes: how often each train example is going to be seen; 0 where every time it is another one.
            made_by: what the numbers depend on beside the weights: the number format.
            note: told what was decided.
        Returns:
            whether anything is kept.
        """
        ...


class Classifier(nn.Module):
    """Features of a backbone through one linear layer to the logits of a label map.

    A subclass sets `backbone` and `body`, and gives `encode`, `inputs`, `features`, `identity`, `marked`, `generic_loss`
    (where its body has a flat way) and, where it has more state than the head's, `_state`.
    """

    body: Any
    """A `Trunk`."""
    backbone: Any
    processor: Any = None
    """What makes numbers of files, saved beside weights; None where a tokenizer does."""
    varies: Literal["never", "in_views", "always"] = "never"
    """Whether rows are altered at random in training: in a fixed number of ways each, or anew every time; see `varied`."""
    paired = False
    """Whether two texts together have a label."""

    def __init__(self, base: Base, labels: Sequence[str], class_weights: Sequence[float], width: int) -> None:
        """`width`: D, numbers of a row's features."""
        super().__init__()
        self.labels = tuple(labels)
        self.fingerprint = base.fingerprint
        self._focal_gamma = 0.0
        self._targets = 1
        """Labels that count in the loss of a row."""
        self.normalised = False
        """Whether the head sees features of length sqrt(D), whatever length they have."""
        self.dropout = nn.Dropout(0.0)
        self.head: nn.Linear | WordHead = nn.Linear(width, len(self.labels))
        self.class_weight: torch.Tensor
        self.register_buffer("class_weight", torch.tensor(list(class_weights), dtype=torch.float32), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    # What a kind of rows brings

    def encode(self, dataset: Dataset) -> Sequence[Example]:
        """Rows with what is learned of them. Raises DataError where a row cannot be learned from."""
        raise NotImplementedError

    def inputs(self, rows: Sequence[Row]) -> list[Example]:
        """Rows as they are predicted, without their labels."""
        raise NotImplementedError

    def features(self, examples: Sequence[Example]) -> torch.Tensor:
        """One vector for each example, (B, D), of the backbone as it is now; altered ones as they are altered."""
        raise NotImplementedError

    def identity(self, example: Example) -> bytes:
        """Equal for examples with equal features."""
        raise NotImplementedError

    def made_by(self) -> list[str]:
        """What features depend on beside the weights and the examples: pooling, size, whatever is set in the recipe."""
        raise NotImplementedError

    def varied(self, example: Example, number: int, epoch: int, others: Sequence[Example]) -> Example:
        """The example as epoch `epoch` sees it, altered at random by (seed, epoch, number) alone; where that is drawn for it,
        mixed with another of all train rows."""
        return example

    def ahead(self, coming: Iterable[Example]) -> AbstractContextManager[None]:
        """Inside, the files of these examples are read before somebody asks for their features, where workers are at hand."""
        return nullcontext()

    def row_of(self, place: Place, text: str, label: str | None, pair: str | None = None) -> Row:
        """The row of which only this is kept: its text, or the path of its file, and its label."""
        return Row(place, Labelled(text, label, pair))

    def answer_by_words(self, base: Base, words: Sequence[str]) -> None:
        """Tell the labels apart from now on by these words for each alone, of which `base` knows what they mean.

        Raises:
            RecipeError: some words cannot be used; whether the model knows any at all was asked before.
        """
        raise NotImplementedError

    def mask_id(self) -> int | None:
        """The token that stands for a hidden one, None where there is none."""
        return None

    # What all have

    def _learned(self) -> Callable[[Row], tuple[tuple[int, ...], float]]:
        """From a row to its class index and what it weighs."""
        index, weights = self._index(), self.class_weight.tolist()
        return lambda row: ((index[row.content.label],), weights[index[row.content.label]])

    def _index(self) -> dict[str, int]:
        return {label: i for i, label in enumerate(self.labels)}

    @torch.no_grad()
    def present_features(
        self, examples: Sequence[Example], watch: Callable[[int], None] = lambda _: None
    ) -> np.ndarray:
        """Features (N, D) float32 of the backbone as it is now."""
        found_ND, done = np.zeros((len(examples), self.head.in_features), dtype=np.float32), 0
        with self.ahead(examples):
            for group in self.body.groups_without_gradient(examples):
                found_ND[group] = self.features([examples[i] for i in group]).float().cpu().numpy()
                done += len(group)
                watch(done)
        return found_ND

    @torch.no_grad()
    def kept_features(self, examples: Sequence[Example]) -> np.ndarray:
        """Features (N, D) float32 of the backbone as it was loaded: computed once, kept on disk for other methods, seeds and
        runs. Not to be asked once the backbone was trained."""
        facts = [_FEATURES_FORMAT, self.fingerprint, self.backbone.config.to_json_string(), *self.made_by()]
        digest = hashlib.sha256("\x1f".join(facts).encode())
        for example in examples:
            digest.update(self.identity(example))

        def make(folder: Path) -> None:
            np.save(folder / "features.npy", self.present_features(examples))

        entry = Cache("features", _FEATURE_BYTES).get(digest.hexdigest()[:32], make)
        return np.load(entry / "features.npy")  # type: ignore[no-any-return]

    def head_rows(self, examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What a head is fitted to: features (N, D) of the backbone as it was loaded, classes (N,), weights (N,)."""
        labels_N, weights_N = np.array([e.labels[0] for e in examples]), np.array([e.weight for e in examples])
        return self.kept_features(examples), labels_N, weights_N

    def forward(self, examples: Sequence[Example]) -> torch.Tensor:
        """Logits (B, C)."""
        features_BD = self.features(examples)
        if self.normalised:
            features_BD = F.normalize(features_BD, dim=-1) * features_BD.shape[-1] ** 0.5
        return self.head(self.dropout(features_BD))  # type: ignore[no-any-return]

    def loss(self, examples: Sequence[Example], label_smoothing: float) -> torch.Tensor:
        """Sum over the rows of class weight x cross-entropy, that of a row times its focal factor, scalar. The loss of a row
        that is mixed of several is theirs in proportion, which without a focal factor is the one of soft labels.

        Source: Zhang et al. 2017, arXiv:1710.09412, section 2.
        """
        logits_BC = self(examples).float()
        if not any(e.shares for e in examples):
            labels_B = torch.tensor([e.labels[0] for e in examples], device=self.device)
            if not self._focal_gamma:
                return F.cross_entropy(
                    logits_BC, labels_B, weight=self.class_weight, label_smoothing=label_smoothing, reduction="sum"
                )
            return self._losses(logits_BC, labels_B, label_smoothing).sum()
        pieces = [
            (row, label, share)
            for row, e in enumerate(examples)
            for label, share in zip(e.labels, e.shares or (1.0,), strict=True)
        ]
        rows_P, labels_P = (torch.tensor([piece[i] for piece in pieces], device=self.device) for i in (0, 1))
        shares_P = torch.tensor([share for _, _, share in pieces], device=self.device)
        return (shares_P * self._losses(logits_BC[rows_P], labels_P, label_smoothing)).sum()

    def _losses(self, logits_BC: torch.Tensor, labels_B: torch.Tensor, label_smoothing: float) -> torch.Tensor:
        """Of each row, (B,)."""
        loss_B = F.cross_entropy(
            logits_BC, labels_B, weight=self.class_weight, label_smoothing=label_smoothing, reduction="none"
        )
        if not self._focal_gamma:
            return loss_B
        return focal_factor(logits_BC, labels_B, self._focal_gamma) * loss_B

    def generic_loss(self, examples: Sequence[Example]) -> torch.Tensor:
        """The loss without smoothing, computed as transformers does: what the flat way is compared with."""
        flat, self.body.use_flat = self.body.use_flat, False
        try:
            return self.loss(examples, 0.0)
        finally:
            self.body.use_flat = flat

    @torch.no_grad()
    def predict(
        self, rows: Sequence[Row], *, answers: int | None = None, watch: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """Probabilities of all labels for each row. Labels cost nothing, so all rows are answered whatever `answers` says."""
        examples = self.inputs(rows)
        answer = self._answering()
        found: list[Prediction | None] = [None] * len(rows)
        done = 0
        with self.ahead(examples):
            for group in self.body.groups_without_gradient(examples):
                for i, logits_C in zip(group, self([examples[i] for i in group]).double(), strict=True):
                    found[i] = answer(rows[i], logits_C)
                done += len(group)
                watch(done)
        return [prediction for prediction in found if prediction is not None]

    def _answering(self) -> Callable[[Row, torch.Tensor], Prediction]:
        """From a row and its logits (C,) to what is said about it."""
        index = self._index()

        def answer(row: Row, logits_C: torch.Tensor) -> Prediction:
            log_probability_C = logits_C.log_softmax(-1)
            best, target = int(log_probability_C.argmax()), row.content.label
            return Prediction(
                place=row.place,
                output=self.labels[best],
                target=target,
                confidence=float(log_probability_C[best].exp()),
                loss=float(-log_probability_C[index[target]]) if target in index else None,
                targets=int(target in index),
                scores=tuple(log_probability_C.exp().tolist()),
                text=row.content.text,
                pair=row.content.pair,
                traits=row.content.media.traits if isinstance(row.content, LabelledMedia) else (),
            )

        return answer

    def save(self, folder: Path) -> None:
        """Head and label map; the backbone is saved by the method."""
        save_file({n: x.detach().contiguous() for n, x in self.head.state_dict().items()}, folder / HEAD_FILE)
        text = json.dumps(self._state(), ensure_ascii=False, indent=1)
        (folder / STATE_FILE).write_text(text + "\n", encoding="utf-8")

    def _state(self) -> dict[str, Any]:
        """What makes the same network again, JSON-able."""
        return {
            "labels": list(self.labels),
            "class_weights": self.class_weight.tolist(),
            "normalised": self.normalised,
            "by_words": isinstance(self.head, WordHead),
        }

    def load_head(self, folder: Path, state: dict[str, Any]) -> None:
        """The head that `save` wrote, with what it says about itself."""
        tensors = load_file(folder / HEAD_FILE)
        if state.get("by_words"):
            self.head = WordHead(**tensors).to(self.device)
        else:
            self.head.load_state_dict(tensors)
        self.normalised = state.get("normalised", False)

    def describe(self, examples: Sequence[Example]) -> dict[str, Any]:
        """What the report tells about the labels of a split."""
        counts = Counter(e.row.content.label for e in examples)
        return {"labels": {label: counts[label] for label in self.labels}}


def labels_of_rows(train: Dataset, class_weights: str) -> tuple[list[str], list[float]]:
    """The label map, sorted whatever order the rows come in, and what a row of each label weighs.

    Args:
        train: rows with one label each.
        class_weights: `balanced`, or none.
    """
    counts = Counter(row.content.label for row in train.rows)
    labels = sorted(counts)
    balanced = [len(train) / (len(labels) * counts[label]) for label in labels]
    return labels, balanced if class_weights == "balanced" else [1.0] * len(labels)


def start_head(network: Classifier, head: Literal["centroid", "random"], train: Dataset, seed: int) -> None:
    """Set the head to the nearest class mean, or to small random numbers drawn from `seed` alone."""
    if head == "centroid":
        start_from_centroids(network, network.encode(train))
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "head"))
        nn.init.normal_(network.head.weight, std=0.02)
        nn.init.zeros_(network.head.bias)


def focal_factor(logits_BC: torch.Tensor, labels_B: torch.Tensor, gamma: float) -> torch.Tensor:
    """(1 - p)^gamma of each row, (B,), p being the probability of its label; the gradient goes through it too.

    Source: Lin et al. 2017, arXiv:1708.02002, equation 4.
    """
    others_BC = logits_BC.masked_fill(F.one_hot(labels_B, logits_BC.shape[1]).bool(), float("-inf"))
    # log(1 - p) over the other labels: 1 - p itself would be 0 in float32 where a row is answered surely, and the gradient
    # of a power below 1 is infinite there.
    return (gamma * (others_BC.logsumexp(1) - logits_BC.logsumexp(1))).exp()


def _least(rising: np.ndarray, figure: Callable[[float], float]) -> float:
    """Where a convex figure is least, by bisection; each value is looked at once at most.

    >>> _least(np.arange(10.0), lambda x: (x - 6.2) ** 2)
    6.0
    """
    figure = functools.cache(figure)
    low, high = 0, len(rising) - 1
    while low < high:
        middle = (low + high) // 2
        if figure(float(rising[middle])) <= figure(float(rising[middle + 1])):
            high = middle
        else:
            low = middle + 1
    return float(rising[low])


@torch.no_grad()
def start_from_centroids(network: Classifier, examples: Sequence[Example]) -> None:
    """Set the head to the nearest-centroid rule, written as a linear layer.

    Squared distance to a class mean m is |h|^2 - 2 h.m + |m|^2; its first term is the same for all classes, so with
    scale s the logits are s (h.m - |m|^2 / 2). The scale is the one under which each row, judged by class means that
    leave it out, has the smallest cross-entropy: with the row inside its own mean the head would start overconfident.
    """
    features_ND = network.kept_features(examples).astype(np.float64)
    labels_N = np.array([e.labels[0] for e in examples])
    counts_C = np.bincount(labels_N, minlength=len(network.labels)).astype(np.float64)
    sums_CD = np.zeros((len(network.labels), features_ND.shape[1]))
    np.add.at(sums_CD, labels_N, features_ND)
    centre_D = features_ND.mean(0)
    means_CD = sums_CD / counts_C[:, None] - centre_D
    features_ND -= centre_D

    logits_NC = features_ND @ means_CD.T - (means_CD**2).sum(1) / 2
    own_ND, n_N = means_CD[labels_N], counts_C[labels_N]
    alone_N = n_N == 1
    without_ND = np.where(
        alone_N[:, None], own_ND, (own_ND * n_N[:, None] - features_ND) / np.maximum(n_N - 1, 1)[:, None]
    )
    rows_N = np.arange(len(examples))
    logits_NC[rows_N, labels_N] = (features_ND * without_ND).sum(1) - (without_ND**2).sum(1) / 2

    spread = max(float(np.abs(logits_NC).mean()), 1e-12)
    scales = np.logspace(-1, 2.5, 40) / spread

    # One error is counted that was not seen: rows that separate cleanly would want an endless scale, and a head that is
    # never in doubt has no gradient left to learn from.
    doubt = 1 / (len(examples) + 1)

    # Convex in the scale, as a logarithm of a sum of exponentials of linear functions less a linear one.
    def cross_entropy(scale: float) -> float:
        scaled_NC = logits_NC * scale
        top_N = scaled_NC.max(1)
        wanted_N = (1 - doubt) * scaled_NC[rows_N, labels_N] + doubt * scaled_NC.mean(1)
        return float((np.log(np.exp(scaled_NC - top_N[:, None]).sum(1)) + top_N - wanted_N).mean())

    scale = _least(scales, cross_entropy)
    network.head.weight.copy_(torch.from_numpy(scale * means_CD))
    network.head.bias.copy_(torch.from_numpy(-scale * ((means_CD**2).sum(1) / 2 + means_CD @ centre_D)))
