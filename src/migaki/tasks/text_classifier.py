"""The network behind `classify_text`: encoder, pooling, linear head."""

# Shapes: B batch, T tokens, D hidden, C classes, N rows

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from migaki.core.cache import Cache
from migaki.core.errors import DataError, ModelError
from migaki.core.parts import Example
from migaki.core.seeds import derive
from migaki.core.store import read_json
from migaki.core.types import Dataset, Prediction, Row
from migaki.tasks.body import Body
from migaki.tasks.lengths import Overlong, check_truncation
from migaki.tasks.pairs import check_pairs, cut_pair, pair_form
from migaki.training.plan import token_groups
from migaki.training.tokens import Examples, Known, Tokens, tokenizer_fingerprint

if TYPE_CHECKING:
    from migaki.models.base import Base
    from migaki.tasks.classify_text import ClassifyText
    from migaki.tasks.label_text import LabelText

__all__ = [
    "HEAD_FILE",
    "STATE_FILE",
    "TextClassifier",
    "focal_factor",
    "has_pairs",
    "new_classifier",
    "restore_classifier",
    "start_from_centroids",
]

_LENGTH_CAP = 512
_TOKENISED_AT_ONCE = 4096
_FEATURES_FORMAT, _FEATURE_BYTES = "1", 1 << 30
HEAD_FILE, STATE_FILE = "head.safetensors", "task.json"


class TextClassifier(nn.Module):
    """Pooled features of the backbone through one linear layer to the logits of the label map."""

    def __init__(
        self,
        base: Base,
        task: ClassifyText | LabelText,
        labels: Sequence[str],
        class_weights: Sequence[float],
        paired: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = cast(Any, base.model)
        if getattr(self.backbone, "pooler", None) is not None:
            # We pool ourselves; an unused pooler would be trained by nobody and adapted for nothing.
            self.backbone.pooler = None
        self.tokenizer = base.tokenizer
        self.labels = tuple(labels)
        self.pooling: Any = task.pooling if task.pooling != "auto" else (base.pooling or "mean")
        self.prompt = base.prompt if task.prompt is None else task.prompt
        self.limit = min(task.max_length or _LENGTH_CAP, base.length_limit)
        self.allow_truncated = task.allow_truncated
        if task.max_length and task.max_length > base.length_limit:
            raise ModelError(
                f"task.max_length is {task.max_length}, but {base.reference} takes at most {base.length_limit} tokens. Lower it."
            )
        config = base.model.config.get_text_config()
        self.body = Body(self.backbone, self.tokenizer.pad_token_id or 0)
        self.paired = paired
        """Whether two texts together have a label."""
        self._form = pair_form(self.tokenizer, getattr(config, "type_vocab_size", 0)) if paired else None
        if self._form and self._form.separator is not None:
            self.body.tell_pairs_apart(self._form.separator)
        self._known = Known()
        self._focal_gamma: float = getattr(task, "focal_gamma", 0.0)
        self.fingerprint = base.fingerprint
        self._targets = 1
        """Labels that count in the loss of a row."""
        self.normalised = False
        """Whether the head sees features of length sqrt(D), whatever length they have."""
        self.dropout = nn.Dropout(0.0)
        self.head = nn.Linear(config.hidden_size, len(self.labels))
        self.class_weight: torch.Tensor
        self.register_buffer("class_weight", torch.tensor(list(class_weights), dtype=torch.float32), persistent=False)
        self.to(base.model.device)

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def encode(self, dataset: Dataset) -> Sequence[Example]:
        """Rows with their token ids and class index.

        Raises:
            TruncationError: more rows than allowed are longer than the limit.
        """
        check_pairs(dataset.rows, self.paired)
        made_by = [tokenizer_fingerprint(self.tokenizer), self.prompt, *(["pairs"] if self._form else [])]
        tokens = Tokens.cached(dataset, made_by, lambda: self._tokenised_rows(dataset.rows))
        self._known.add(dataset.rows, tokens)
        lengths = tokens.lengths.tolist()
        overlong = [Overlong(row, n) for row, n in zip(dataset.rows, lengths, strict=True) if n > self.limit]
        check_truncation(overlong, len(dataset), self.limit, self.allow_truncated, dataset.name)
        learned = self._learned()

        def example(number: int) -> Example:
            row, ids = dataset.rows[number], self._cut_row(tokens, number)
            labels, weight = learned(row)
            return Example(row, ids, labels, weight, targets=self._targets, truncated=int(lengths[number]) > self.limit)

        return Examples(len(dataset), example)

    def _learned(self) -> Callable[[Row], tuple[tuple[int, ...], float]]:
        """From a row to its class index and what it weighs."""
        index, weights = self._index(), self.class_weight.tolist()
        return lambda row: ((index[row.content.label],), weights[index[row.content.label]])

    def _index(self) -> dict[str, int]:
        return {label: i for i, label in enumerate(self.labels)}

    def _tokenised_rows(self, rows: Sequence[Row]) -> Iterator[tuple[Sequence[int], Sequence[bool] | None]]:
        """Token ids of each row at full length; where two texts stand in it, also which tokens are the second one's."""
        for at in range(0, len(rows), _TOKENISED_AT_ONCE):
            few = rows[at : at + _TOKENISED_AT_ONCE]
            if self._form and all(row.content.pair is not None for row in few):
                yield from self._tokenised_pairs(few)
                continue
            for ids in self.tokenised([getattr(row.content, "both", None) or row.content.text for row in few]):
                yield ids, [False] * len(ids) if self._form else None

    def _tokenised_pairs(self, rows: Sequence[Row]) -> Iterator[tuple[Sequence[int], Sequence[bool]]]:
        assert self._form is not None
        firsts = [self.prompt + row.content.text for row in rows]
        found = self.tokenizer(firsts, [row.content.pair for row in rows], truncation=False, verbose=False)
        for number, row in enumerate(rows):
            ids, second = found["input_ids"][number], [of == 1 for of in found.sequence_ids(number)]
            n_first = len(ids) - sum(second) - self._form.before - self._form.between - self._form.behind
            separator = self._form.separator
            if separator is not None and ids.index(separator) != self._form.before + n_first:
                raise DataError(
                    f"{row.place}: the text itself holds {self.tokenizer.decode([separator])!r}, by which the model tells two texts "
                    "apart. Take it out of the text."
                )
            yield ids, second

    def tokenised(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text behind the prompt, however many."""
        prompted = [self.prompt + text for text in texts]
        found: list[list[int]] = self.tokenizer(prompted, truncation=False, verbose=False)["input_ids"]
        return found

    def _cut_row(self, tokens: Tokens, number: int) -> tuple[int, ...]:
        ids = tokens.ids(number).tolist()
        if self._form is None or len(ids) <= self.limit or not (n_second := int(tokens.targets(number).sum())):
            return tuple(self.cut(ids))
        return tuple(cut_pair(ids, n_second, self._form, self.limit))

    def cut(self, ids: list[int]) -> list[int]:
        """The first tokens of a row over the limit, with the closing special token kept where the tokenizer sets one."""
        if len(ids) <= self.limit:
            return ids
        closes = self.tokenizer.sep_token_id is not None and ids[-1] == self.tokenizer.sep_token_id
        return [*ids[: self.limit - 1], ids[-1]] if closes else ids[: self.limit]

    def features(self, examples: Sequence[Example]) -> torch.Tensor:
        """Pooled vectors (B, D)."""
        return self.body.pooled([e.ids for e in examples], self.pooling)

    @torch.no_grad()
    def present_features(
        self, examples: Sequence[Example], watch: Callable[[int], None] = lambda _: None
    ) -> np.ndarray:
        """Pooled vectors (N, D) float32 of the backbone as it is now."""
        found_ND, done = np.zeros((len(examples), self.head.in_features), dtype=np.float32), 0
        for group in token_groups([len(e) for e in examples]):
            found_ND[group] = self.features([examples[i] for i in group]).float().cpu().numpy()
            done += len(group)
            watch(done)
        return found_ND

    @torch.no_grad()
    def kept_features(self, examples: Sequence[Example]) -> np.ndarray:
        """Pooled vectors (N, D) float32 of the backbone as it was loaded: computed once, kept on disk for other methods,
        seeds and runs. Not to be asked once the backbone was trained."""
        facts = [_FEATURES_FORMAT, self.fingerprint, self.backbone.config.to_json_string(), self.pooling]
        facts += [f"pairs {self._form}"] if self._form else []
        digest = hashlib.sha256("\x1f".join(facts).encode())
        for example in examples:
            digest.update(np.asarray([len(example), *example.ids], dtype=np.int32).tobytes())

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
        """Sum over the rows of class weight x cross-entropy, that of a row times its focal factor, scalar."""
        labels_B = torch.tensor([e.labels[0] for e in examples], device=self.device)
        logits_BC = self(examples).float()
        if not self._focal_gamma:
            return F.cross_entropy(
                logits_BC, labels_B, weight=self.class_weight, label_smoothing=label_smoothing, reduction="sum"
            )
        loss_B = F.cross_entropy(
            logits_BC, labels_B, weight=self.class_weight, label_smoothing=label_smoothing, reduction="none"
        )
        return (focal_factor(logits_BC, labels_B, self._focal_gamma) * loss_B).sum()

    def generic_loss(self, examples: Sequence[Example]) -> torch.Tensor:
        """The loss without smoothing, computed as transformers does: what the flat way is compared with."""
        flat, self.body.use_flat = self.body.use_flat, False
        try:
            return self.loss(examples, 0.0)
        finally:
            self.body.use_flat = flat

    def mask_id(self) -> int | None:
        """The token that stands for a hidden one, None where the tokenizer has none."""
        found: int | None = self.tokenizer.mask_token_id
        return found

    def inputs(self, rows: Sequence[Row]) -> list[Example]:
        """Rows as they are predicted, without their labels."""
        tokens = self._known.find(rows) or Tokens.of(self._tokenised_rows(rows))
        return [Example(row, self._cut_row(tokens, i), (), 0.0) for i, row in enumerate(rows)]

    @torch.no_grad()
    def predict(
        self, rows: Sequence[Row], *, answers: int | None = None, watch: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """Probabilities of all labels for each row; a text over the limit loses its end. Labels cost nothing, so all rows
        are answered whatever `answers` says."""
        check_pairs(rows, self.paired)
        examples = self.inputs(rows)
        answer = self._answering()
        found: list[Prediction | None] = [None] * len(rows)
        done = 0
        for group in token_groups([len(e) for e in examples]):
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
            )

        return answer

    def save(self, folder: Path) -> None:
        """Head and label map; the backbone is saved by the method."""
        save_file(
            {"weight": self.head.weight.detach().contiguous(), "bias": self.head.bias.detach().contiguous()},
            folder / HEAD_FILE,
        )
        text = json.dumps(self._state(), ensure_ascii=False, indent=1)
        (folder / STATE_FILE).write_text(text + "\n", encoding="utf-8")

    def _state(self) -> dict[str, Any]:
        return {
            "labels": list(self.labels),
            "pooling": self.pooling,
            "prompt": self.prompt,
            "max_length": self.limit,
            "class_weights": self.class_weight.tolist(),
            "normalised": self.normalised,
            "paired": self.paired,
        }

    def marked(self, example: Example) -> list[tuple[str, bool]]:
        """The row as the model sees it, in pieces, each with whether it is a target."""
        return [(self.tokenizer.decode(list(example.ids)), False), (f" -> {self.labels[example.labels[0]]}", True)]

    def describe(self, examples: Sequence[Example]) -> dict[str, Any]:
        """What the report tells about the labels of a split."""
        counts = Counter(e.row.content.label for e in examples)
        return {"labels": {label: counts[label] for label in self.labels}, "length": self.limit}


def new_classifier(base: Base, task: ClassifyText, train: Dataset, seed: int) -> TextClassifier:
    """A classifier whose label map is the sorted labels of the training rows, whatever order they come in."""
    counts = Counter(row.content.label for row in train.rows)
    labels = sorted(counts)
    balanced = [len(train) / (len(labels) * counts[label]) for label in labels]
    weights = balanced if task.class_weights == "balanced" else [1.0] * len(labels)
    network = TextClassifier(base, task, labels, weights, has_pairs(train))
    if task.head == "centroid":
        start_from_centroids(network, network.encode(train))
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "head"))
            nn.init.normal_(network.head.weight, std=0.02)
            nn.init.zeros_(network.head.bias)
    return network


def focal_factor(logits_BC: torch.Tensor, labels_B: torch.Tensor, gamma: float) -> torch.Tensor:
    """(1 - p)^gamma of each row, (B,), p being the probability of its label; the gradient goes through it too.

    Source: Lin et al. 2017, arXiv:1708.02002, equation 4.
    """
    others_BC = logits_BC.masked_fill(F.one_hot(labels_B, logits_BC.shape[1]).bool(), float("-inf"))
    # log(1 - p) over the other labels: 1 - p itself would be 0 in float32 where a row is answered surely, and the gradient
    # of a power below 1 is infinite there.
    return (gamma * (others_BC.logsumexp(1) - logits_BC.logsumexp(1))).exp()


def has_pairs(dataset: Dataset) -> bool:
    """Whether the rows hold two texts each."""
    return any(row.content.pair is not None for row in dataset.rows)


def restore_classifier(base: Base, task: ClassifyText, folder: Path) -> TextClassifier:
    """The classifier of a saved run: its label map, pooling, length limit and head over the given backbone."""
    state = read_json(folder / STATE_FILE)
    kept = {"pooling": state["pooling"], "prompt": state.get("prompt", ""), "max_length": state["max_length"]}
    task = task.model_copy(update=kept)
    network = TextClassifier(base, task, state["labels"], state["class_weights"], state.get("paired", False))
    network.head.load_state_dict(load_file(folder / HEAD_FILE))
    network.normalised = state.get("normalised", False)
    return network


@torch.no_grad()
def start_from_centroids(network: TextClassifier, examples: Sequence[Example]) -> None:
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

    def cross_entropy(scale: float) -> float:
        scaled_NC = logits_NC * scale
        top_N = scaled_NC.max(1)
        wanted_N = (1 - doubt) * scaled_NC[rows_N, labels_N] + doubt * scaled_NC.mean(1)
        return float((np.log(np.exp(scaled_NC - top_N[:, None]).sum(1)) + top_N - wanted_N).mean())

    scale = min(scales, key=cross_entropy)
    network.head.weight.copy_(torch.from_numpy(scale * means_CD))
    network.head.bias.copy_(torch.from_numpy(-scale * ((means_CD**2).sum(1) / 2 + means_CD @ centre_D)))
