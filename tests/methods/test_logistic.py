"""The penalised logistic regression: its solution, and how the penalty is chosen."""

import numpy as np
import pytest
import torch

from migaki.methods.logistic import fit_logistic


def rows(n: int, seed: int = 0, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    randomness = np.random.default_rng(seed)
    labels_N = randomness.integers(0, classes, n)
    labels_N[:classes] = np.arange(classes)
    return randomness.normal(size=(n, 4)) + labels_N[:, None] * np.array([1.0, -0.5, 0.0, 0.2]), labels_N


@pytest.mark.parametrize("classes", [2, 3])
def test_the_gradient_of_the_stated_objective_is_zero_at_the_solution(classes):
    """Sum of weight x cross-entropy + penalty / 2 |W|^2, by autograd. For two classes W is split half and half, which
    has half the norm of the single row, so its penalty counts twice."""
    x_ND, labels_N = rows(60, classes=classes)
    weight_N = np.where(labels_N == 0, 2.0, 1.0)
    found = fit_logistic(x_ND, labels_N, weight_N, classes, (x_ND, labels_N), [0.7])
    w, b = (torch.tensor(a, requires_grad=True) for a in (found.weight_CD, found.bias_C))
    logits = torch.tensor(x_ND) @ w.T + b
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor(labels_N), reduction="none")
    penalty = 0.7 * (2 if classes == 2 else 1)
    ((losses * torch.tensor(weight_N)).sum() + penalty / 2 * w.pow(2).sum()).backward()
    assert w.grad.abs().max() < 0.02
    assert b.grad.abs().max() < 0.02


def test_the_penalty_with_most_right_validation_rows_wins_and_then_the_smaller_loss():
    x_ND, labels_N = rows(80)
    valid = rows(60, seed=1)
    found = fit_logistic(x_ND, labels_N, np.ones(80), 3, valid)
    alone = {p: fit_logistic(x_ND, labels_N, np.ones(80), 3, valid, [p]).tried[p] for p in found.tried}
    best = max(alone, key=lambda p: (round(alone[p][0], 6), -alone[p][1]))
    assert found.penalty == best
    for penalty, (accuracy, loss) in found.tried.items():
        assert accuracy == pytest.approx(alone[penalty][0], abs=1 / 59)
        assert loss == pytest.approx(alone[penalty][1], abs=2e-3)


def test_log_probabilities_are_those_of_a_softmax():
    x_ND, labels_N = rows(30)
    found = fit_logistic(x_ND, labels_N, np.ones(30), 3, (x_ND, labels_N), [1.0])
    logits = torch.tensor(x_ND @ found.weight_CD.T + found.bias_C)
    np.testing.assert_allclose(found.log_probabilities(x_ND), logits.log_softmax(-1).numpy(), atol=1e-12)


def test_one_class_is_always_right():
    x_ND, _ = rows(5)
    found = fit_logistic(x_ND, np.zeros(5, int), np.ones(5), 1, (x_ND, np.zeros(5, int)))
    np.testing.assert_array_equal(found.log_probabilities(x_ND), np.zeros((5, 1)))
