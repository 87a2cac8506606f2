"""The learner of methods that measure a file without a model and weigh what was measured: no network, no gradient."""

# Shapes: N rows, F numbers of a row, C classes

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from safetensors.numpy import save_file

from migaki.core.parts import Example
from migaki.core.store import read_json
from migaki.core.types import Dataset, Prediction, Row
from migaki.evaluation.calibration import log_softmax
from migaki.methods.logistic import PENALTIES, fit_logistic, saved_weights
from migaki.methods.stepless import Stepless
from migaki.tasks.answers import label_answer
from migaki.tasks.classifier import labels_of_rows

__all__ = ["MeasuredLearner"]


class MeasuredLearner(Stepless):
    """A label for each row from F numbers that are measured on its file, by a logistic regression.

    A subclass says what is measured, how many numbers that gives, and its settings, by which it is made again.
    """

    name: ClassVar[str]
    """Of its files, and in facts."""

    def __init__(self, labels: Sequence[str], class_weights: Sequence[float], shares: Sequence[float]) -> None:
        """`shares`: of each label among the train rows, which is answered before anything is learned."""
        self._labels = tuple(labels)
        self._class_weights = list(class_weights)
        self._shares_C = np.array(shares)
        self._penalty: float | None = None
        self._learned = False
        self._mean_F, self._scale = np.zeros(self.n_numbers(), np.float32), 1.0
        self._weight_CF = np.zeros((len(labels), self.n_numbers()), np.float32)
        self._bias_C = np.zeros(len(labels), np.float32)

    # What a kind of files brings

    def n_numbers(self) -> int:
        """F; asked before anything else is set up."""
        raise NotImplementedError

    def measured(self, rows: Sequence[Row]) -> np.ndarray:
        """(N, F) float32. Raises DataError where a file cannot be read any more."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """JSON-able, by the names under which the constructor takes them."""
        return {}

    def said(self) -> str:
        """What the numbers are, in words."""
        raise NotImplementedError

    # What all have

    @classmethod
    def new(cls, task: Any, train: Dataset, penalty: float | None, **settings: Any) -> Self:
        """One that has not learned yet, with the label map and class weights of the task."""
        labels, weights = labels_of_rows(train, task.class_weights)
        counts = Counter(row.content.label for row in train.rows)
        made = cls(labels, weights, [counts[label] / len(train) for label in labels], **settings)
        made._penalty = penalty
        return made

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    def encode(self, dataset: Dataset) -> Sequence[Example]:
        """Rows with their class index; files are measured when that is needed."""
        index = {label: i for i, label in enumerate(self._labels)}
        classes = [index[row.content.label] for row in dataset.rows]
        return [Example(row, (), (c,), self._class_weights[c]) for row, c in zip(dataset.rows, classes, strict=True)]

    def settle(
        self, train: Sequence[Example], valid: Sequence[Row], passes: int, note: Callable[[str], None]
    ) -> dict[str, Any]:
        """Measure all files, and fit the head."""
        x_NF = self.measured([e.row for e in train])
        self._mean_F = x_NF.mean(0)
        # One scale for all: a number that hardly ever changes must not count as much as the others.
        self._scale = float((x_NF - self._mean_F).std()) or 1.0
        index = {label: i for i, label in enumerate(self._labels)}
        fitted = fit_logistic(
            self._centred(x_NF),
            np.array([e.labels[0] for e in train]),
            np.array([e.weight for e in train]),
            len(self._labels),
            (self._centred(self.measured(valid)), np.array([index[row.content.label] for row in valid])),
            [self._penalty] if self._penalty else PENALTIES,
        )
        self._weight_CF, self._bias_C = fitted.weight_CD.astype(np.float32), fitted.bias_C.astype(np.float32)
        self._learned = True
        note(f"{self.said()} weighed on {len(train)} rows with penalty {fitted.penalty:g}")
        return {"path": self.name, "penalty": fitted.penalty, "tried": fitted.tried}

    def _centred(self, x_NF: np.ndarray) -> np.ndarray:
        centred_NF: np.ndarray = (x_NF - self._mean_F) / self._scale
        return centred_NF

    def predict(
        self, rows: Sequence[Row], *, answers: int | None = None, watch: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """Probabilities of all labels for each row."""
        predictions = []
        for row in rows:
            predictions.append(self._answer(row))
            watch(len(predictions))
        return predictions

    def _answer(self, row: Row) -> Prediction:
        log_C = np.log(self._shares_C)
        if self._learned:
            x_1F = self._centred(self.measured([row])).astype(np.float64)
            log_C = log_softmax(x_1F @ self._weight_CF.T.astype(np.float64) + self._bias_C)[0]
        return label_answer(row, log_C, self._labels)

    @contextmanager
    def untrained(self) -> Iterator[None]:
        learned, self._learned = self._learned, False
        try:
            yield
        finally:
            self._learned = learned

    def save(self, folder: Path) -> None:
        """Labels as JSON, weights as safetensors."""
        state = {
            "labels": self._labels,
            "class_weights": self._class_weights,
            "shares": self._shares_C.tolist(),
            **self.settings(),
            "scale": self._scale,
        }
        (folder / f"{self.name}.json").write_text(json.dumps(state, ensure_ascii=False) + "\n", encoding="utf-8")
        weights = {"mean": self._mean_F, "weight": self._weight_CF, "bias": self._bias_C}
        save_file(
            {n: np.ascontiguousarray(tensor) for n, tensor in weights.items()}, folder / f"{self.name}.safetensors"
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote.

        Raises:
            DamagedError: the weights are of another size than the labels and numbers.
        """
        state = read_json(folder / f"{cls.name}.json")
        scale = state.pop("scale")
        learner = cls(state.pop("labels"), state.pop("class_weights"), state.pop("shares"), **state)
        shape = learner._weight_CF.shape
        tensors = saved_weights(folder / f"{cls.name}.safetensors", shape, f"{cls.name}.json has labels and {cls.name}")
        learner._mean_F, learner._scale = tensors["mean"], scale
        learner._weight_CF, learner._bias_C = tensors["weight"], tensors["bias"]
        learner._learned = True
        return learner

    def marked(self, example: Example) -> list[tuple[str, bool]]:
        return [(example.row.content.text, False), (f" -> {self._labels[example.labels[0]]}", True)]

    def describe(self, examples: Sequence[Example]) -> dict[str, Any]:
        counts = Counter(e.row.content.label for e in examples)
        return {"labels": {label: counts[label] for label in self._labels}}

    def parameter_counts(self) -> tuple[int, int]:
        """Weights of the numbers and biases."""
        n = self._weight_CF.size + self._bias_C.size
        return n, n
