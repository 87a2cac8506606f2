"""The head's loss, made a few positions at a time, is cross-entropy over all logits: value and gradients."""

# Shapes: P target positions, D hidden, V vocabulary

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from migaki.models import head
from migaki.models.head import head_loss, head_losses

P, D, V = 7, 5, 11
PIECES = [pytest.param(1, id="a position at once"), pytest.param(3 * V, id="three"), pytest.param(1 << 24, id="all")]


def case(bias: bool = True, seed: int = 0) -> tuple[torch.Tensor, nn.Linear, torch.Tensor]:
    """Hidden vectors, a head and targets, some of them twice."""
    torch.manual_seed(seed)
    layer = nn.Linear(D, V, bias=bias)
    return torch.randn(P, D, requires_grad=True), layer, torch.tensor([0, 3, 3, 10, 5, 3, 1])


def gradients(loss: torch.Tensor, h_PD: torch.Tensor, layer: nn.Linear) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [h_PD, *layer.parameters()]))


@pytest.mark.parametrize("numbers", PIECES)
@pytest.mark.parametrize(("bias", "smoothing"), [(True, 0.0), (True, 0.1), (False, 0.0), (False, 0.1)])
def test_loss_and_gradients_are_those_of_cross_entropy(
    bias: bool, smoothing: float, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "_NUMBERS_AT_ONCE", numbers)
    h_PD, layer, targets_P = case(bias)
    found = head_loss(h_PD, layer, targets_P, smoothing)
    wanted = F.cross_entropy(layer(h_PD), targets_P, label_smoothing=smoothing, reduction="sum")
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-6)
    # The loop divides by the number of targets, so what comes from above is not one.
    for ours, theirs in zip(gradients(found / 3, h_PD, layer), gradients(wanted / 3, h_PD, layer), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("numbers", PIECES)
def test_each_position_has_its_own_loss(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_NUMBERS_AT_ONCE", numbers)
    for bias in (True, False):
        h_PD, layer, targets_P = case(bias)
        found = head_losses(h_PD, layer, targets_P)
        assert found.dtype == torch.float64
        assert not found.requires_grad
        wanted = F.cross_entropy(layer(h_PD), targets_P, reduction="none").double()
        assert torch.allclose(found, wanted, rtol=1e-6, atol=0)


def test_equal_logits_lose_the_logarithm_of_the_vocabulary() -> None:
    """A head of zeros: ln 11 for each of the seven targets, with and without smoothing."""
    h_PD, layer, targets_P = case()
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    for smoothing in (0.0, 0.3):
        assert float(head_loss(h_PD, layer, targets_P, smoothing).detach()) == pytest.approx(7 * 2.3978953, rel=1e-6)


def test_the_full_logits_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    whole = head._logits

    def counted(h_CD: torch.Tensor, w_VD: torch.Tensor, b_V: torch.Tensor | None) -> torch.Tensor:
        seen.append(len(h_CD))
        return whole(h_CD, w_VD, b_V)

    monkeypatch.setattr(head, "_logits", counted)
    monkeypatch.setattr(head, "_NUMBERS_AT_ONCE", 3 * V + 2)
    h_PD, layer, targets_P = case()
    head_loss(h_PD, layer, targets_P, 0.0).backward()  # type: ignore[no-untyped-call]
    head_losses(h_PD, layer, targets_P)
    assert seen == [3, 3, 1, 3, 3, 1]


def test_a_vocabulary_larger_than_the_room_is_still_computed_one_position_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(head, "_NUMBERS_AT_ONCE", V - 1)
    assert [piece.stop - piece.start for piece in head._pieces(3, V)] == [1, 1, 1]


def test_a_head_tied_to_the_embedding_gets_both_gradients() -> None:
    """Ids go in through the same matrix by which they are predicted."""
    torch.manual_seed(1)
    embedding, layer, mix = nn.Embedding(V, D), nn.Linear(D, V, bias=False), nn.Linear(D, D)
    layer.weight = embedding.weight
    ids_P, targets_P = torch.tensor([1, 2, 3, 4, 2]), torch.tensor([2, 3, 4, 2, 9])
    h_PD = mix(embedding(ids_P)).tanh()
    (found,) = torch.autograd.grad(head_loss(h_PD, layer, targets_P, 0.1), embedding.weight, retain_graph=True)
    loss = F.cross_entropy(layer(h_PD), targets_P, label_smoothing=0.1, reduction="sum")
    (wanted,) = torch.autograd.grad(loss, embedding.weight)
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-7)


def test_what_is_frozen_gets_no_gradient() -> None:
    h_PD, layer, targets_P = case()
    layer.requires_grad_(False)
    loss = head_loss(h_PD, layer, targets_P, 0.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert layer.weight.grad is None
    assert layer.bias.grad is None
    (wanted,) = torch.autograd.grad(F.cross_entropy(layer(h_PD), targets_P, reduction="sum"), h_PD)
    assert h_PD.grad is not None
    assert torch.allclose(h_PD.grad, wanted, rtol=1e-5, atol=1e-7)


def test_large_logits_stay_finite() -> None:
    """A thousand times the usual logits: exp would overflow, the loss is the gap to the largest."""
    h_PD, layer, targets_P = case()
    with torch.no_grad():
        layer.weight.mul_(1000)
    found = head_loss(h_PD, layer, targets_P, 0.0)
    wanted = F.cross_entropy(layer(h_PD), targets_P, reduction="sum")
    assert torch.isfinite(found)
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
