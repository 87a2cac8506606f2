"""The learners of methods that measure rows without a model and weigh what was measured: no network, no gradient."""

# Shapes: N rows, F numbers of a row, C classes

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from safetensors.numpy import save_file

from migaki.core.errors import DataError
from migaki.core.parts import Example
from migaki.core.store import read_json
from migaki.core.types import Dataset, Prediction, Row
from migaki.evaluation.calibration import log_softmax
from migaki.methods.logistic import PENALTIES, Logistic, fit_logistic, saved_weights
from migaki.methods.stepless import Stepless
from migaki.tasks.answers import label_answer
from migaki.tasks.classifier import labels_of_rows

__all__ = ["FileLearner", "MeasuredLearner"]


class MeasuredLearner(Stepless, ABC):
    """A label for each row from F numbers that are measured on it, by a logistic regression.

    A subclass says what is measured, and its settings, by which it is made again.
    """

    name: ClassVar[str]
    """Of its files, and in facts."""
    penalties: ClassVar[Sequence[float]] = PENALTIES
    """What is tried where none is set."""
    rows_at_once: ClassVar[int] = 1
    """How many are answered together."""

    def __init__(self, labels: Sequence[str], class_weights: Sequence[float], shares: Sequence[float]) -> None:
        """`shares`: of each label among the train rows, which is answered before anything is learned."""
        self._labels = tuple(labels)
        self._class_weights = list(class_weights)
        self._shares_C = np.array(shares)
        self._penalty: float | None = None
        self._learned = False
        self._weight_CF, self._bias_C = np.zeros((len(labels), 0), np.float32), np.zeros(len(labels), np.float32)

    # What a kind of rows brings

    @abstractmethod
    def first_numbers(self, rows: Sequence[Row]) -> Any:
        """Those of the train rows, by which it is settled how all are measured."""

    @abstractmethod
    def numbers(self, rows: Sequence[Row]) -> Any:
        """(N, F), dense or sparse."""

    @abstractmethod
    def n_numbers(self) -> int:
        """F; 0 where that is not known yet."""

    @abstractmethod
    def said(self) -> str:
        """What the numbers are, in words."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """JSON-able, by the names under which the constructor takes them."""

    @abstractmethod
    def tensors(self) -> dict[str, np.ndarray]:
        """What it has to know beside them to measure again."""

    @abstractmethod
    def take(self, tensors: dict[str, np.ndarray]) -> None:
        """Know what `tensors` gave."""

    # What all have

    @classmethod
    def new(cls, task: Any, train: Dataset, penalty: float | None, **settings: Any) -> Self:
        """One that has not learned yet, with the label map and class weights of the task."""
        made = cls(**cls.known(task, train), **settings)
        made._penalty = penalty
        return made

    @classmethod
    def known(cls, task: Any, train: Dataset) -> dict[str, Any]:
        """What the constructor takes beside the settings of the method."""
        labels, weights = labels_of_rows(train, task.class_weights)
        counts = Counter(row.content.label for row in train.rows)
        return {"labels": labels, "class_weights": weights, "shares": [counts[label] / len(train) for label in labels]}

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    def encode(self, dataset: Dataset) -> Sequence[Example]:
        """Rows with their class index; they are measured when that is needed."""
        index = {label: i for i, label in enumerate(self._labels)}
        classes = [index[row.content.label] for row in dataset.rows]
        return [Example(row, (), (c,), self._class_weights[c]) for row, c in zip(dataset.rows, classes, strict=True)]

    def settle(
        self, train: Sequence[Example], valid: Sequence[Row], passes: int, note: Callable[[str], None]
    ) -> dict[str, Any]:
        """Measure all rows, and fit the head."""
        x_NF = self.first_numbers([e.row for e in train])
        fitted = self._fitted(x_NF, train, valid, [self._penalty] if self._penalty else self.penalties)
        self._weight_CF, self._bias_C = fitted.weight_CD.astype(np.float32), fitted.bias_C.astype(np.float32)
        self._learned = True
        note(f"{self.said()} weighed on {len(train)} rows with penalty {fitted.penalty:g}")
        return {"path": self.name, "penalty": fitted.penalty, "tried": fitted.tried}

    def _fitted(
        self, x_NF: Any, train: Sequence[Example], valid: Sequence[Row], penalties: Sequence[float]
    ) -> Logistic:
        index = {label: i for i, label in enumerate(self._labels)}
        return fit_logistic(
            x_NF,
            np.array([e.labels[0] for e in train]),
            np.array([e.weight for e in train]),
            len(self._labels),
            (self.numbers(valid), np.array([index[row.content.label] for row in valid])),
            penalties,
        )

    def predict(
        self, rows: Sequence[Row], *, answers: int | None = None, watch: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """Probabilities of all labels for each row."""
        predictions: list[Prediction] = []
        for at in range(0, len(rows), self.rows_at_once):
            few = rows[at : at + self.rows_at_once]
            predictions += [self._answer(row, logits_C) for row, logits_C in zip(few, self._logits(few), strict=True)]
            watch(len(predictions))
        return predictions

    def _logits(self, rows: Sequence[Row]) -> np.ndarray:
        """Of the labels for each row, (N, C)."""
        if not self._learned:
            return np.tile(self._start(), (len(rows), 1))
        logits_NC: np.ndarray = self.numbers(rows) @ self._weight_CF.T.astype(np.float64) + self._bias_C
        return logits_NC

    def _start(self) -> np.ndarray:
        """Logits of the shares, (C,)."""
        logits_C: np.ndarray = np.log(self._shares_C)
        return logits_C

    def _answer(self, row: Row, logits_C: np.ndarray) -> Prediction:
        return label_answer(row, log_softmax(logits_C[None])[0], self._labels)

    @contextmanager
    def untrained(self) -> Iterator[None]:
        learned, self._learned = self._learned, False
        try:
            yield
        finally:
            self._learned = learned

    def save(self, folder: Path) -> None:
        """Labels and settings as JSON, weights as safetensors."""
        state = {
            "labels": self._labels,
            "class_weights": self._class_weights,
            "shares": self._shares_C.tolist(),
            **self.settings(),
        }
        (folder / f"{self.name}.json").write_text(json.dumps(state, ensure_ascii=False) + "\n", encoding="utf-8")
        tensors = {"weight": self._weight_CF, "bias": self._bias_C, **self.tensors()}
        save_file({n: np.ascontiguousarray(tensor) for n, tensor in tensors.items()}, self._weights_in(folder))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote.

        Raises:
            DamagedError: the weights are of another size than the labels and numbers.
        """
        learner = cls(**read_json(folder / f"{cls.name}.json"))
        shape = (len(learner._labels), learner.n_numbers())
        tensors = saved_weights(cls._weights_in(folder), shape, f"{cls.name}.json has labels and {learner.said()}")
        learner._weight_CF, learner._bias_C = tensors["weight"], tensors["bias"]
        learner.take(tensors)
        learner._learned = True
        return learner

    @classmethod
    def _weights_in(cls, folder: Path) -> Path:
        return folder / f"{cls.name}.safetensors"

    def marked(self, example: Example) -> list[tuple[str, bool]]:
        said = ", ".join(self._labels[i] for i in example.labels) or "(none)"
        return [(example.row.content.both, False), (f" -> {said}", True)]

    def describe(self, examples: Sequence[Example]) -> dict[str, Any]:
        counts = Counter(self._labels[i] for e in examples for i in e.labels)
        return {"labels": {label: counts[label] for label in self._labels}}

    def parameter_counts(self) -> tuple[int, int]:
        """Weights of the numbers and biases."""
        n = len(self._labels) * (self.n_numbers() + 1)
        return n, n


class FileLearner(MeasuredLearner):
    """The same from the file of each row, its numbers about their mean."""

    def __init__(self, scale: float = 1.0, **known: Any) -> None:
        """`scale`: what the numbers are divided by."""
        super().__init__(**known)
        self._scale = scale
        self._mean_F = np.zeros(0, np.float32)

    @abstractmethod
    def measured(self, path: str) -> np.ndarray:
        """Of one file, (F,). Raises ValueError where it cannot be read."""

    def first_numbers(self, rows: Sequence[Row]) -> np.ndarray:
        x_NF = self._measured(rows)
        self._mean_F = x_NF.mean(0)
        # One scale for all: a number that hardly ever changes must not count as much as the others.
        self._scale = float((x_NF - self._mean_F).std()) or 1.0
        return self._centred(x_NF)

    def numbers(self, rows: Sequence[Row]) -> np.ndarray:
        """Raises DataError where a file cannot be read any more."""
        return self._centred(self._measured(rows))

    def _measured(self, rows: Sequence[Row]) -> np.ndarray:
        found_NF = np.zeros((len(rows), self.n_numbers()), np.float32)
        for number, row in enumerate(rows):
            path = row.content.media.path
            try:
                found_NF[number] = self.measured(path)
            except ValueError as error:
                raise DataError(f"{row.place}: {path} {error}. It could be read when the run began.") from None
        return found_NF

    def _centred(self, x_NF: np.ndarray) -> np.ndarray:
        centred_NF: np.ndarray = (x_NF - self._mean_F) / self._scale
        return centred_NF

    def settings(self) -> dict[str, Any]:
        return {"scale": self._scale}

    def tensors(self) -> dict[str, np.ndarray]:
        return {"mean": self._mean_F}

    def take(self, tensors: dict[str, np.ndarray]) -> None:
        self._mean_F = tensors["mean"]
