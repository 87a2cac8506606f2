"""The learner of `tfidf`: no network, no tokens, no gradient."""

# Shapes: N rows, F n-grams, C classes

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from sklearn.feature_extraction.text import TfidfVectorizer

from migaki.core.errors import DamagedError
from migaki.core.parts import Example, ParameterGroup
from migaki.core.store import read_json
from migaki.core.types import Dataset, Prediction, Row
from migaki.methods.logistic import fit_logistic, log_softmax

__all__ = ["NgramLearner", "load_ngrams"]

_MOST_FEATURES = 50_000
"""Of each kind, the most frequent ones."""
_WEIGHTS_FILE, _STATE_FILE = "ngrams.safetensors", "ngrams.json"
_AT_ONCE = 1024
_PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01)
"""Weaker than for dense features: rows have length 1, spread over thousands of n-grams."""


class NgramLearner:
    """A label for each text from the n-grams it holds."""

    def __init__(self, labels: Sequence[str], class_weights: Sequence[float], penalty: float | None) -> None:
        self._labels = tuple(labels)
        self._class_weights = list(class_weights)
        self._penalty = penalty
        self._vectorizers: list[TfidfVectorizer] = []
        self._weight_CF = np.zeros((len(labels), 0), np.float32)
        self._bias_C = np.zeros(len(labels), np.float32)
        self._shares_C = np.full(len(labels), 1 / len(labels))

    @classmethod
    def new(cls, task: Any, train: Dataset, penalty: float | None) -> NgramLearner:
        """One that has not learned yet, with the label map and class weights of the task."""
        counts = Counter(row.content.label for row in train.rows)
        labels = sorted(counts)
        balanced = [len(train) / (len(labels) * counts[label]) for label in labels]
        made = cls(labels, balanced if task.class_weights == "balanced" else [1.0] * len(labels), penalty)
        made._shares_C = np.array([counts[label] / len(train) for label in labels])
        return made

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    def encode(self, dataset: Dataset) -> Sequence[Example]:
        """Rows with their class index; there are no tokens."""
        index = {label: i for i, label in enumerate(self._labels)}
        classes = [index[row.content.label] for row in dataset.rows]
        return [Example(row, (), (c,), self._class_weights[c]) for row, c in zip(dataset.rows, classes, strict=True)]

    def settle(
        self, train: Sequence[Example], valid: Sequence[Row], passes: int, note: Callable[[str], None]
    ) -> dict[str, Any]:
        """Count, weigh, and fit the head."""
        texts = [e.row.content.text for e in train]
        # A row's rarest n-grams say nothing about other rows; of few rows every one is needed.
        least = 2 if len(texts) >= 1000 else 1
        kinds: tuple[dict[str, Any], ...] = (
            {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"},
            {"analyzer": "char_wb", "ngram_range": (1, 4)},
        )
        self._vectorizers = [
            TfidfVectorizer(sublinear_tf=True, min_df=least, max_features=_MOST_FEATURES, **kind).fit(texts)
            for kind in kinds
        ]
        index = {label: i for i, label in enumerate(self._labels)}
        fitted = fit_logistic(
            self._features(texts),
            np.array([e.labels[0] for e in train]),
            np.array([e.weight for e in train]),
            len(self._labels),
            (self._features([row.content.text for row in valid]), np.array([index[r.content.label] for r in valid])),
            [self._penalty] if self._penalty else _PENALTIES,
        )
        self._weight_CF, self._bias_C = fitted.weight_CD.astype(np.float32), fitted.bias_C.astype(np.float32)
        note(f"{self._weight_CF.shape[1]} n-grams weighed on {len(train)} rows with penalty {fitted.penalty:g}")
        return {"path": "n-grams", "penalty": fitted.penalty, "tried": fitted.tried}

    def _features(self, texts: Sequence[str]) -> Any:
        from scipy.sparse import hstack

        return hstack([vectorizer.transform(texts) for vectorizer in self._vectorizers], format="csr")

    def predict(
        self, rows: Sequence[Row], *, answers: int | None = None, watch: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """Probabilities of all labels for each row."""
        index = {label: i for i, label in enumerate(self._labels)}
        found: list[Prediction] = []
        for at in range(0, len(rows), _AT_ONCE):
            few = rows[at : at + _AT_ONCE]
            for row, log_C in zip(few, self._log_probabilities([row.content.text for row in few]), strict=True):
                best, target = int(log_C.argmax()), row.content.label
                found.append(
                    Prediction(
                        place=row.place,
                        output=self._labels[best],
                        target=target,
                        confidence=float(np.exp(log_C[best])),
                        loss=float(-log_C[index[target]]) if target in index else None,
                        targets=int(target in index),
                        scores=tuple(np.exp(log_C).tolist()),
                        text=row.content.text,
                    )
                )
            watch(len(found))
        return found

    def _log_probabilities(self, texts: Sequence[str]) -> np.ndarray:
        if not self._vectorizers:
            return np.tile(np.log(self._shares_C), (len(texts), 1))
        logits_NC = self._features(texts) @ self._weight_CF.T.astype(np.float64) + self._bias_C
        return log_softmax(logits_NC)

    @contextmanager
    def untrained(self) -> Iterator[None]:
        learned, self._vectorizers = self._vectorizers, []
        try:
            yield
        finally:
            self._vectorizers = learned

    def save(self, folder: Path) -> None:
        """Vocabulary and labels as JSON, weights as safetensors."""
        state = {
            "labels": self._labels,
            "class_weights": self._class_weights,
            "shares": self._shares_C.tolist(),
            "kinds": [
                {
                    "analyzer": v.analyzer,
                    "ngram_range": v.ngram_range,
                    "token_pattern": v.token_pattern,
                    "words": sorted(v.vocabulary_, key=v.vocabulary_.__getitem__),
                }
                for v in self._vectorizers
            ],
        }
        (folder / _STATE_FILE).write_text(json.dumps(state, ensure_ascii=False) + "\n", encoding="utf-8")
        idf = {f"idf.{i}": np.ascontiguousarray(v.idf_) for i, v in enumerate(self._vectorizers)}
        weights = {"weight": np.ascontiguousarray(self._weight_CF), "bias": self._bias_C}
        save_file({**weights, **idf}, folder / _WEIGHTS_FILE)

    def marked(self, example: Example) -> list[tuple[str, bool]]:
        return [(example.row.content.text, False), (f" -> {self._labels[example.labels[0]]}", True)]

    def describe(self, examples: Sequence[Example]) -> dict[str, Any]:
        counts = Counter(e.row.content.label for e in examples)
        return {"labels": {label: counts[label] for label in self._labels}}

    def parameter_counts(self) -> tuple[int, int]:
        """Weights of the n-grams; known once they were counted."""
        n = self._weight_CF.size + self._bias_C.size
        return n, n

    def parameter_groups(self) -> list[ParameterGroup]:
        return []

    def evaluation_mode(self) -> None:
        """There is no other."""

    # What only a learner with steps is asked

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


def load_ngrams(folder: Path) -> NgramLearner:
    """What `NgramLearner.save` wrote.

    Raises:
        DamagedError: weights and vocabulary are of different sizes.
    """
    state, tensors = read_json(folder / _STATE_FILE), load_file(folder / _WEIGHTS_FILE)
    learner = NgramLearner(state["labels"], state["class_weights"], None)
    learner._shares_C = np.array(state["shares"])
    learner._weight_CF, learner._bias_C = tensors["weight"], tensors["bias"]
    n_words = sum(len(kind["words"]) for kind in state["kinds"])
    if learner._weight_CF.shape != (len(state["labels"]), n_words):
        raise DamagedError(f"{folder / _WEIGHTS_FILE} has weights of another size than {_STATE_FILE} has n-grams.")
    for i, kind in enumerate(state["kinds"]):
        vectorizer = TfidfVectorizer(
            sublinear_tf=True,
            analyzer=kind["analyzer"],
            ngram_range=tuple(kind["ngram_range"]),
            token_pattern=kind["token_pattern"],
            vocabulary={word: number for number, word in enumerate(kind["words"])},
        )
        vectorizer.idf_ = tensors[f"idf.{i}"]
        learner._vectorizers.append(vectorizer)
    return learner
