"""The learners of `tfidf`: no network, no tokens, no gradient."""

# Shapes: N rows, F n-grams, C classes

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from migaki.core.parts import Example
from migaki.core.types import Dataset, Prediction, Row
from migaki.methods.logistic import Logistic, fit_each
from migaki.methods.measured import MeasuredLearner
from migaki.tasks.pairs import check_pairs
from migaki.tasks.text_classifier import has_pairs
from migaki.tasks.text_labeller import labels_answer

__all__ = ["LabellingNgrams", "NgramLearner"]

_MOST_FEATURES = 50_000
"""Of each kind, the most frequent ones."""


class NgramLearner(MeasuredLearner):
    """A label for each text, or each pair of texts, from the n-grams it holds."""

    name = "ngrams"
    # Weaker than for dense numbers: rows have length 1, spread over thousands of n-grams.
    penalties = (1.0, 0.3, 0.1, 0.03, 0.01)
    rows_at_once = 1024

    def __init__(self, paired: bool = False, kinds: Sequence[Mapping[str, Any]] = (), **known: Any) -> None:
        """`kinds` has of each kind of n-grams its settings and its `words` in order."""
        super().__init__(**known)
        self._paired = paired
        self._vectorizers = [
            TfidfVectorizer(
                sublinear_tf=True,
                analyzer=kind["analyzer"],
                ngram_range=tuple(kind["ngram_range"]),
                token_pattern=kind["token_pattern"],
                vocabulary={word: number for number, word in enumerate(kind["words"])},
            )
            for kind in kinds
        ]

    @classmethod
    def known(cls, task: Any, train: Dataset) -> dict[str, Any]:
        return {**super().known(task, train), "paired": has_pairs(train)}

    def encode(self, dataset: Dataset) -> Sequence[Example]:
        check_pairs(dataset.rows, self._paired)
        return super().encode(dataset)

    def first_numbers(self, rows: Sequence[Row]) -> Any:
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
        return self.numbers(rows)

    def numbers(self, rows: Sequence[Row]) -> Any:
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

    def n_numbers(self) -> int:
        """Known once they were counted."""
        n_words = sum(len(v.vocabulary or v.vocabulary_) for v in self._vectorizers)
        return 3 * n_words + len(self._vectorizers) if self._paired else n_words

    def said(self) -> str:
        return f"{self.n_numbers()} n-grams"

    def predict(
        self, rows: Sequence[Row], *, answers: int | None = None, watch: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        check_pairs(rows, self._paired)
        return super().predict(rows, answers=answers, watch=watch)

    def settings(self) -> dict[str, Any]:
        kinds = [
            {
                "analyzer": v.analyzer,
                "ngram_range": v.ngram_range,
                "token_pattern": v.token_pattern,
                "words": sorted(v.vocabulary_, key=v.vocabulary_.__getitem__),
            }
            for v in self._vectorizers
        ]
        return {"paired": self._paired, "kinds": kinds}

    def tensors(self) -> dict[str, np.ndarray]:
        return {f"idf.{i}": v.idf_ for i, v in enumerate(self._vectorizers)}

    def take(self, tensors: dict[str, np.ndarray]) -> None:
        for i, vectorizer in enumerate(self._vectorizers):
            vectorizer.idf_ = tensors[f"idf.{i}"]


class LabellingNgrams(NgramLearner):
    """A yes or no for each label from the n-grams of a text or of a pair."""

    def __init__(self, threshold: float = 0.5, **known: Any) -> None:
        """`threshold`: a label is given where its probability is above it."""
        super().__init__(**known)
        self.threshold = threshold

    @classmethod
    def known(cls, task: Any, train: Dataset) -> dict[str, Any]:
        counts = Counter(label for row in train.rows for label in row.content.labels)
        labels, n = sorted(counts), len(train)
        balanced = [(n - counts[label]) / counts[label] or 1.0 for label in labels]
        return {
            "labels": labels,
            "class_weights": balanced if task.class_weights == "balanced" else [1.0] * len(labels),
            "shares": [(counts[label] + 0.5) / (n + 1) for label in labels],
            "paired": has_pairs(train),
            "threshold": task.threshold or 0.5,
        }

    def encode(self, dataset: Dataset) -> Sequence[Example]:
        """Rows with the indexes of their labels."""
        check_pairs(dataset.rows, self._paired)
        index, n = {label: i for i, label in enumerate(self._labels)}, len(self._labels)
        return [
            Example(row, (), tuple(index[label] for label in row.content.labels), float(n), targets=n)
            for row in dataset.rows
        ]

    def _fitted(
        self, x_NF: Any, train: Sequence[Example], valid: Sequence[Row], penalties: Sequence[float]
    ) -> Logistic:
        wanted_NC = np.array([[i in e.labels for i in range(len(self._labels))] for e in train])
        right_NC = np.array([[label in row.content.labels for label in self._labels] for row in valid])
        return fit_each(x_NF, wanted_NC, np.array(self._class_weights), (self.numbers(valid), right_NC), penalties)

    def _start(self) -> np.ndarray:
        logits_C: np.ndarray = np.log(self._shares_C / (1 - self._shares_C))
        return logits_C

    def _answer(self, row: Row, logits_C: np.ndarray) -> Prediction:
        return labels_answer(row, logits_C, self._labels, self.threshold)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "threshold": self.threshold}
