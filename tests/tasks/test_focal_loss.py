"""The focal loss: its factor by hand, its gradient through the factor, and plain cross-entropy at 0."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from learners import lopsided, prepared, task_of
from migaki.tasks.classifier import focal_factor
from migaki.training.loop import accumulate_gradients


def test_the_factor_is_the_probability_of_the_other_labels_to_the_power() -> None:
    # Logits ln 3, 0, 0: probabilities 3/5, 1/5, 1/5. For label 0 (2/5)^2 = 0.16, for label 1 (4/5)^2 = 0.64.
    logits_BC = torch.tensor([[math.log(3), 0.0, 0.0]] * 2)
    assert focal_factor(logits_BC, torch.tensor([0, 1]), 2.0).tolist() == pytest.approx([0.16, 0.64])


def test_the_gradient_of_two_labels_is_the_one_of_the_paper() -> None:
    # With two labels and logit difference x, p = sigmoid(x): dL/dx = (1 - p)^g (g p ln p + p - 1), appendix B of
    # arXiv:1708.02002. At x = 0 and g = 2: 0.25 (ln 0.5 - 0.5) = -0.2983.
    for x, gamma in ((0.0, 2.0), (1.5, 0.5), (-2.0, 3.0)):
        logit = torch.tensor(x, requires_grad=True)
        logits_BC = torch.stack([logit, torch.zeros(())])[None]
        label_B = torch.tensor([0])
        loss = (focal_factor(logits_BC, label_B, gamma) * F.cross_entropy(logits_BC, label_B, reduction="none")).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        p = 1 / (1 + math.exp(-x))
        wanted = (1 - p) ** gamma * (gamma * p * math.log(p) + p - 1)
        assert logit.grad is not None
        assert float(logit.grad) == pytest.approx(wanted, rel=1e-5)
    assert 0.25 * (math.log(0.5) - 0.5) == pytest.approx(-0.2983, abs=1e-4)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_a_row_that_is_answered_surely_has_a_finite_gradient(gamma: float) -> None:
    """1 - p is 0 in float32 there, and its square root has no slope."""
    logits_BC = torch.tensor([[80.0, 0.0, 0.0]], requires_grad=True)
    label_B = torch.tensor([0])
    (focal_factor(logits_BC, label_B, gamma) * F.cross_entropy(logits_BC, label_B, reduction="none")).sum().backward()  # type: ignore[no-untyped-call]
    assert logits_BC.grad is not None
    assert bool(logits_BC.grad.isfinite().all())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_the_step_adds_up_factor_times_weighted_cross_entropy(
    smoothing: float, class_weights: str, tiny_encoder: Path
) -> None:
    rows = lopsided(8)
    settings = {"class_weights": class_weights, "head": "random"}
    learner = prepared(tiny_encoder, task_of("classify_text", focal_gamma=2.0, **settings), "full", rows)
    examples = learner.encode(rows)
    learner.train_mode(0.0)
    total = accumulate_gradients(learner, examples, smoothing, 4)
    network = learner.network  # type: ignore[attr-defined]
    wanted = 0.0
    for example in examples:
        logits_C = network([example])[0].detach()
        label = example.labels[0]
        p = float(logits_C.softmax(-1)[label])
        weight = float(network.class_weight[label])
        aside = smoothing / len(learner.labels)
        log_C = logits_C.log_softmax(-1)
        # torch weighs each label of the smoothed target with its own class weight.
        plain = -(1 - smoothing) * weight * float(log_C[label]) - aside * float((network.class_weight * log_C).sum())
        wanted += (1 - p) ** 2 * plain
    assert total == pytest.approx(wanted, rel=1e-5)


def test_without_a_power_the_loss_is_the_plain_one(tiny_encoder: Path) -> None:
    rows = lopsided(8)
    losses = []
    for settings in ({}, {"focal_gamma": 0.0}):
        learner = prepared(tiny_encoder, task_of("classify_text", head="random", **settings), "full", rows)
        losses.append(accumulate_gradients(learner, learner.encode(rows), 0.0))
    assert losses[0] == losses[1]


def test_rows_answered_well_count_less_than_in_the_plain_loss(tiny_encoder: Path) -> None:
    rows = lopsided(8)
    plain, focal = (
        prepared(tiny_encoder, task_of("classify_text", head="random", focal_gamma=gamma), "full", rows)
        for gamma in (0.0, 2.0)
    )
    examples = plain.encode(rows)
    assert float(focal.loss(examples, 0.0).detach()) < float(plain.loss(examples, 0.0).detach())
