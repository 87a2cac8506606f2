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
from safetensors.numpy import save_file
from sklearn.feature_extraction.text import TfidfVectorizer

from migaki.core.parts import Example
from migaki.core.store import read_json
from migaki.core.types import Dataset, Prediction, Row
from migaki.evaluation.calibration import log_softmax
from migaki.methods.logistic import Logistic, fit_each, fit_logistic, saved_weights
from migaki.methods.stepless import Stepless
from migaki.tasks.answers import label_answer
from migaki.tasks.classifier import labels_of_rows
from migaki.tasks.pairs import check_pairs
from migaki.tasks.text_classifier import has_pairs
from migaki.tasks.text_labeller import labels_answer

__all__ = ["LabellingNgrams", "NgramLearner", "load_ngrams"]

_MOST_FEATURES = 50_000
"""Of each kind, the most frequent ones."""
_WEIGHTS_FILE, _STATE_FILE = "ngrams.safetensors", "ngrams.json"
_AT_ONCE = 1024
_PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01)
"""Weaker than for dense features: rows have length 1, spread over thousands of n-grams."""


class NgramLearner(Stepless):
    """A label for each text, or each pair of texts, from the n-grams it holds."""

    def __init__(self, labels: Sequence[str], class_weights: Sequence[float], penalty: float | None) -> None:
        self._labels = tuple(labels)
        self._class_weights = list(class_weights)
        self._penalty = penalty
        self._paired = False
        self._vectorizers: list[TfidfVectorizer] = []
        self._weight_CF = np.zeros((len(labels), 0), np.float32)
        self._bias_C = np.zeros(len(labels), np.float32)
        self._shares_C = np.full(len(labels), 1 / len(labels))

    @classmethod
    def new(cls, task: Any, train: Dataset, penalty: float | None) -> NgramLearner:
        """One that has not learned yet, with the label map and class weights of the task."""
        labels, weights = labels_of_rows(train, task.class_weights)
        counts = Counter(row.content.label for row in train.rows)
        made = cls(labels, weights, penalty)
        made._shares_C = np.array([counts[label] / len(train) for label in labels])
        made._paired = has_pairs(train)
        return made

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    def encode(self, dataset: Dataset) -> Sequence[Example]:
        """Rows with their class index; there are no tokens."""
        check_pairs(dataset.rows, self._paired)
        index = {label: i for i, label in enumerate(self._labels)}
        classes = [index[row.content.label] for row in dataset.rows]
        return [Example(row, (), (c,), self._class_weights[c]) for row, c in zip(dataset.rows, classes, strict=True)]

    def settle(
        self, train: Sequence[Example], valid: Sequence[Row], passes: int, note: Callable[[str], None]
    ) -> dict[str, Any]:
        """Count, weigh, and fit the head."""
        rows = [e.row for e in train]
        texts = [text for row in rows for text in (row.content.text, row.content.pair) if text is not None]
        # A row's rarest n-grams say nothing about other rows; of few rows every one is needed.
        least = 2 if len(rows) >= 1000 else 1
        kinds: tuple[dict[str, Any], ...] = (
            {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"},
            {"analyzer": "char_wb", "ngram_range": (1, 4)},
        )
        self._vectorizers = [
            TfidfVectorizer(sublinear_tf=True, min_df=least, max_features=_MOST_FEATURES, **kind).fit(texts)
            for kind in kinds
        ]
        penalties = [self._penalty] if self._penalty else _PENALTIES
        fitted = self._fitted(self._features(rows), train, self._features(valid), valid, penalties)
        self._weight_CF, self._bias_C = fitted.weight_CD.astype(np.float32), fitted.bias_C.astype(np.float32)
        note(f"{self._weight_CF.shape[1]} n-grams weighed on {len(train)} rows with penalty {fitted.penalty:g}")
        return {"path": "n-grams", "penalty": fitted.penalty, "tried": fitted.tried}

    def _fitted(
        self, x_NF: Any, train: Sequence[Example], v_NF: Any, valid: Sequence[Row], penalties: Sequence[float]
    ) -> Logistic:
        index = {label: i for i, label in enumerate(self._labels)}
        return fit_logistic(
            x_NF,
            np.array([e.labels[0] for e in train]),
            np.array([e.weight for e in train]),
            len(self._labels),
            (v_NF, np.array([index[row.content.label] for row in valid])),
            penalties,
        )

    def _features(self, rows: Sequence[Row]) -> Any:
        """(N, F) sparse: the n-grams of the text; of a pair also those of the second text, those of both (the products of
        their weights), and how alike the two are (the sum of the products, their cosine)."""
        from scipy.sparse import csr_matrix, hstack

        texts = [row.content.text for row in rows]
        first = [vectorizer.transform(texts) for vectorizer in self._vectorizers]
        if not self._paired:
            return hstack(first, format="csr")
        seconds = [row.content.pair for row in rows]
        second = [vectorizer.transform(seconds) for vectorizer in self._vectorizers]
        shared = [a.multiply(b).tocsr() for a, b in zip(first, second, strict=True)]
        alike = [csr_matrix(both.sum(1)) for both in shared]
        return hstack([*first, *second, *shared, *alike], format="csr")

    def predict(
        self, rows: Sequence[Row], *, answers: int | None = None, watch: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """Probabilities of all labels for each row."""
        check_pairs(rows, self._paired)
        predictions: list[Prediction] = []
        for at in range(0, len(rows), _AT_ONCE):
            few = rows[at : at + _AT_ONCE]
            predictions += [self._answer(row, said_C) for row, said_C in zip(few, self._said(few), strict=True)]
            watch(len(predictions))
        return predictions

    def _said(self, rows: Sequence[Row]) -> np.ndarray:
        """Logits of the labels for each row, (N, C)."""
        if not self._vectorizers:
            return np.tile(np.log(self._shares_C), (len(rows), 1))
        logits_NC: np.ndarray = self._features(rows) @ self._weight_CF.T.astype(np.float64) + self._bias_C
        return logits_NC

    def _answer(self, row: Row, logits_C: np.ndarray) -> Prediction:
        return label_answer(row, log_softmax(logits_C[None])[0], self._labels)

    @contextmanager
    def untrained(self) -> Iterator[None]:
        learned, self._vectorizers = self._vectorizers, []
        try:
            yield
        finally:
            self._vectorizers = learned

    def save(self, folder: Path) -> None:
        """Vocabulary and labels as JSON, weights as safetensors."""
        (folder / _STATE_FILE).write_text(json.dumps(self._state(), ensure_ascii=False) + "\n", encoding="utf-8")
        idf = {f"idf.{i}": np.ascontiguousarray(v.idf_) for i, v in enumerate(self._vectorizers)}
        weights = {"weight": np.ascontiguousarray(self._weight_CF), "bias": self._bias_C}
        save_file({**weights, **idf}, folder / _WEIGHTS_FILE)

    def _state(self) -> dict[str, Any]:
        return {
            "labels": self._labels,
            "paired": self._paired,
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

    def marked(self, example: Example) -> list[tuple[str, bool]]:
        return [(example.row.content.both, False), (f" -> {self._labels[example.labels[0]]}", True)]

    def describe(self, examples: Sequence[Example]) -> dict[str, Any]:
        counts = Counter(e.row.content.label for e in examples)
        return {"labels": {label: counts[label] for label in self._labels}}

    def parameter_counts(self) -> tuple[int, int]:
        """Weights of the n-grams; known once they were counted."""
        n = self._weight_CF.size + self._bias_C.size
        return n, n


class LabellingNgrams(NgramLearner):
    """A yes or no for each label from the n-grams of a text or of a pair."""

    threshold = 0.5
    """A label is given where its probability is above it."""

    @classmethod
    def new(cls, task: Any, train: Dataset, penalty: float | None) -> LabellingNgrams:
        counts = Counter(label for row in train.rows for label in row.content.labels)
        labels, n = sorted(counts), len(train)
        balanced = [(n - counts[label]) / counts[label] or 1.0 for label in labels]
        made = cls(labels, balanced if task.class_weights == "balanced" else [1.0] * len(labels), penalty)
        made._shares_C = np.array([(counts[label] + 0.5) / (n + 1) for label in labels])
        made._paired = has_pairs(train)
        made.threshold = task.threshold or 0.5
        return made

    def encode(self, dataset: Dataset) -> Sequence[Example]:
        """Rows with the indexes of their labels; there are no tokens."""
        check_pairs(dataset.rows, self._paired)
        index, n = {label: i for i, label in enumerate(self._labels)}, len(self._labels)
        return [
            Example(row, (), tuple(index[label] for label in row.content.labels), float(n), targets=n)
            for row in dataset.rows
        ]

    def _fitted(
        self, x_NF: Any, train: Sequence[Example], v_NF: Any, valid: Sequence[Row], penalties: Sequence[float]
    ) -> Logistic:
        wanted_NC = np.array([[i in e.labels for i in range(len(self._labels))] for e in train])
        right_NC = np.array([[label in row.content.labels for label in self._labels] for row in valid])
        return fit_each(x_NF, wanted_NC, np.array(self._class_weights), (v_NF, right_NC), penalties)

    def _said(self, rows: Sequence[Row]) -> np.ndarray:
        if not self._vectorizers:
            return np.tile(np.log(self._shares_C / (1 - self._shares_C)), (len(rows), 1))
        return super()._said(rows)

    def _answer(self, row: Row, logits_C: np.ndarray) -> Prediction:
        return labels_answer(row, logits_C, self._labels, self.threshold)

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "threshold": self.threshold}

    def marked(self, example: Example) -> list[tuple[str, bool]]:
        said = ", ".join(self._labels[i] for i in example.labels) or "(none)"
        return [(example.row.content.both, False), (f" -> {said}", True)]

    def describe(self, examples: Sequence[Example]) -> dict[str, Any]:
        counts = Counter(label for e in examples for label in e.row.content.labels)
        return {"labels": {label: counts[label] for label in self._labels}}


def load_ngrams(folder: Path) -> NgramLearner:
    """What `NgramLearner.save` wrote, of either kind.

    Raises:
        DamagedError: weights and vocabulary are of different sizes.
    """
    state = read_json(folder / _STATE_FILE)
    learner: NgramLearner
    if "threshold" in state:
        labelling = LabellingNgrams(state["labels"], state["class_weights"], None)
        labelling.threshold = state["threshold"]
        learner = labelling
    else:
        learner = NgramLearner(state["labels"], state["class_weights"], None)
    learner._shares_C = np.array(state["shares"])
    learner._paired = state.get("paired", False)
    n_words = sum(len(kind["words"]) for kind in state["kinds"])
    if learner._paired:
        n_words = 3 * n_words + len(state["kinds"])
    tensors = saved_weights(folder / _WEIGHTS_FILE, (len(state["labels"]), n_words), f"{_STATE_FILE} has n-grams")
    learner._weight_CF, learner._bias_C = tensors["weight"], tensors["bias"]
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
