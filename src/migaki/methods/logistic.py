"""Multinomial logistic regression over a ladder of penalties, judged on validation rows."""

# Shapes: N rows, D features, C classes

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from migaki.core.errors import DamagedError
from migaki.evaluation.calibration import log_softmax

__all__ = ["PENALTIES", "Logistic", "fit_each", "fit_logistic", "fit_present", "saved_weights"]

PENALTIES = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03)
_MOST_STEPS = 1000
_FAR = 1.1
_NEVER = 30.0
"""How far below the others the bias of a class without rows lies, in nats."""


@dataclass(frozen=True)
class Logistic:
    """Logits are x W^T + b."""

    weight_CD: np.ndarray
    bias_C: np.ndarray
    penalty: float
    tried: dict[float, tuple[float, float]]
    """For each penalty accuracy and mean cross-entropy (nats) on the validation rows."""

    def log_probabilities(self, x_ND: Any) -> np.ndarray:
        """(N, C); `x_ND` dense or sparse."""
        return log_softmax(x_ND @ self.weight_CD.T + self.bias_C)


def fit_logistic(
    x_ND: Any,
    labels_N: np.ndarray,
    weight_N: np.ndarray,
    n_classes: int,
    valid: tuple[Any, np.ndarray],
    penalties: Sequence[float] = PENALTIES,
) -> Logistic:
    """The solution with the highest validation accuracy; of equal ones that with the smallest loss.

    Minimises the sum over rows of weight x cross-entropy, plus penalty / 2 x |W|^2 (the bias is free).

    Args:
        x_ND: features, dense or sparse.
        labels_N: class of each row; every class has a row.
        valid: features and labels of rows to judge by. Rows of another class than 0..C-1 cannot be among them.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if n_classes == 1:
        return Logistic(np.zeros((1, x_ND.shape[1])), np.zeros(1), penalties[0], {})
    x_valid_ND, valid_labels_N = valid
    found: dict[float, Logistic] = {}
    tried: dict[float, tuple[float, float]] = {}
    # From strong to weak, each starting where the one before ended: the weakest one alone would take the most steps.
    model = LogisticRegression(max_iter=_MOST_STEPS, warm_start=True)
    for penalty in sorted(penalties, reverse=True):
        model.set_params(C=1 / penalty)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x_ND, labels_N, sample_weight=weight_N)
        weight_CD, bias_C = model.coef_.copy(), model.intercept_.copy()
        if n_classes == 2:
            # One logit for the second class; half of it each way gives the same probabilities.
            weight_CD, bias_C = np.concatenate([-weight_CD, weight_CD]) / 2, np.concatenate([-bias_C, bias_C]) / 2
        found[penalty] = Logistic(weight_CD, bias_C, penalty, tried)
        log_NC = found[penalty].log_probabilities(x_valid_ND)
        accuracy = float((log_NC.argmax(1) == valid_labels_N).mean())
        tried[penalty] = accuracy, float(-log_NC[np.arange(len(valid_labels_N)), valid_labels_N].mean())
        if tried[penalty][1] > _FAR * min(loss for _, loss in tried.values()):
            break  # the loss over the penalty has one valley, and this is its far side
    return found[max(tried, key=lambda penalty: (tried[penalty][0], -tried[penalty][1]))]


def fit_present(
    x_ND: Any,
    labels_N: np.ndarray,
    weight_N: np.ndarray,
    n_classes: int,
    valid: tuple[Any, np.ndarray],
    penalties: Sequence[float] = PENALTIES,
) -> Logistic:
    """`fit_logistic` where some classes may have no row: they are never answered, and validation rows of them do not count."""
    present = np.unique(labels_N)
    if len(present) == n_classes:
        return fit_logistic(x_ND, labels_N, weight_N, n_classes, valid, penalties)
    known_N = np.isin(valid[1], present)
    judged = valid[0][known_N], np.searchsorted(present, valid[1][known_N])
    fitted = fit_logistic(x_ND, np.searchsorted(present, labels_N), weight_N, len(present), judged, penalties)
    weight_CD = np.zeros((n_classes, fitted.weight_CD.shape[1]))
    bias_C = np.full(n_classes, fitted.bias_C.min() - _NEVER)
    weight_CD[present], bias_C[present] = fitted.weight_CD, fitted.bias_C
    return Logistic(weight_CD, bias_C, fitted.penalty, fitted.tried)


def fit_each(
    x_ND: Any,
    wanted_NC: np.ndarray,
    positive_weight_C: np.ndarray,
    valid: tuple[Any, np.ndarray],
    penalties: Sequence[float] = PENALTIES,
) -> Logistic:
    """One yes or no for each label, all under the penalty with the smallest mean loss on the validation rows.

    Minimises for each label the sum over rows of the binary cross-entropy, that of a right label times its weight, plus
    penalty / 2 x |w|^2 (the bias is free). A label that all rows have, or none, is answered by its frequency.

    Args:
        x_ND: features, dense or sparse.
        wanted_NC: whether each label is right.
        positive_weight_C: what a right label counts.
        valid: features and right labels of rows to judge by.
    Returns:
        weights and biases of the logits; `tried` holds for each penalty the share of right answers at probability one half
        and the mean loss (nats).
    """
    found: dict[float, Logistic] = {}
    tried: dict[float, tuple[float, float]] = {}
    for penalty in sorted(penalties, reverse=True):
        heads = [_one_head(x_ND, y_N, float(w), penalty) for y_N, w in zip(wanted_NC.T, positive_weight_C, strict=True)]
        found[penalty] = Logistic(np.stack([w for w, _ in heads]), np.array([b for _, b in heads]), penalty, tried)
        z_NC = valid[0] @ found[penalty].weight_CD.T + found[penalty].bias_C
        loss_NC = np.logaddexp(0, np.where(valid[1], -z_NC, z_NC))
        tried[penalty] = float(((z_NC > 0) == valid[1]).mean()), float(loss_NC.mean())
        if tried[penalty][1] > _FAR * min(loss for _, loss in tried.values()):
            break  # the loss over the penalty has one valley, and this is its far side
    return found[min(tried, key=lambda penalty: tried[penalty][1])]


def _one_head(x_ND: Any, wanted_N: np.ndarray, positive_weight: float, penalty: float) -> tuple[np.ndarray, float]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    n, n_right = len(wanted_N), int(wanted_N.sum())
    if n_right in (0, n):
        return np.zeros(x_ND.shape[1]), float(np.log((n_right + 0.5) / (n - n_right + 0.5)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=1 / penalty, max_iter=_MOST_STEPS)
        model.fit(x_ND, wanted_N, sample_weight=np.where(wanted_N, positive_weight, 1.0))
    return model.coef_[0].copy(), float(model.intercept_[0])


def saved_weights(path: Path, shape: tuple[int, ...], counted: str) -> dict[str, np.ndarray]:
    """The tensors of a saved regression, `weight` among them.

    Args:
        path: of the safetensors file.
        shape: of the weight by what was saved beside it.
        counted: what that is, in words.
    Raises:
        DamagedError: the weight is of another size.
    """
    tensors = load_file(path)
    if tensors["weight"].shape != shape:
        raise DamagedError(f"{path} has weights of another size than {counted}.")
    return tensors
