"""Cross-entropy behind a linear head, a few positions at a time: the full logits never exist.

Source of the idea, gradient in the forward pass: Hsu et al. 2024 (Liger Kernel), arXiv:2410.10989, section 3.2.
"""

# Shapes: P target positions, C positions at once, D hidden, V vocabulary

from __future__ import annotations

from typing import Any

import torch

__all__ = ["head_loss", "head_losses"]

_NUMBERS_AT_ONCE = 1 << 24
"""Logits held at once: 64 MiB in float32."""


def _pieces(n: int, vocabulary: int) -> list[slice]:
    size = max(1, _NUMBERS_AT_ONCE // vocabulary)
    return [slice(at, at + size) for at in range(0, n, size)]


def _logits(h_CD: torch.Tensor, w_VD: torch.Tensor, b_V: torch.Tensor | None) -> torch.Tensor:
    """(C, V) in float32, whatever the weights are kept in."""
    return torch.nn.functional.linear(h_CD, w_VD, b_V).float()


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        h_PD: torch.Tensor,
        w_VD: torch.Tensor,
        b_V: torch.Tensor | None,
        targets_P: torch.Tensor,
        smoothing: float,
    ) -> torch.Tensor:
        n_words = w_VD.shape[0]
        total = h_PD.new_zeros((), dtype=torch.float64)
        dh_PD = torch.empty_like(h_PD) if ctx.needs_input_grad[0] else None
        dw_VD = torch.zeros_like(w_VD) if ctx.needs_input_grad[1] else None
        db_V = torch.zeros_like(b_V) if b_V is not None and ctx.needs_input_grad[2] else None
        for piece in _pieces(len(targets_P), n_words):
            h_CD, targets_C1 = h_PD[piece], targets_P[piece, None]
            logits_CV = _logits(h_CD, w_VD, b_V)
            lse_C1 = logits_CV.logsumexp(-1, keepdim=True)
            loss_C1 = lse_C1 - (1 - smoothing) * logits_CV.gather(1, targets_C1)
            if smoothing:
                loss_C1 -= smoothing * logits_CV.mean(-1, keepdim=True)
            total += loss_C1.double().sum()
            if dh_PD is None and dw_VD is None and db_V is None:
                continue
            # softmax - target distribution, in the memory of the logits
            grad_CV = logits_CV.sub_(lse_C1).exp_()
            if smoothing:
                grad_CV -= smoothing / n_words
            grad_CV.scatter_add_(1, targets_C1, torch.full_like(loss_C1, smoothing - 1))
            grad_CV = grad_CV.to(w_VD.dtype)
            if dh_PD is not None:
                dh_PD[piece] = grad_CV @ w_VD
            if dw_VD is not None:
                dw_VD.addmm_(grad_CV.T, h_CD)
            if db_V is not None:
                db_V += grad_CV.sum(0)
        ctx.save_for_backward(dh_PD, dw_VD, db_V)
        return total.float()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        dh_PD, dw_VD, db_V = (
            None if saved is None else saved * grads[0].to(saved.dtype) for saved in ctx.saved_tensors
        )
        return dh_PD, dw_VD, db_V, None, None


def head_loss(
    h_PD: torch.Tensor, head: torch.nn.Linear, targets_P: torch.Tensor, label_smoothing: float
) -> torch.Tensor:
    """Sum of the cross-entropy (nats) over all positions, scalar, with gradients for what requires them.

    Equal to `F.cross_entropy(head(h), targets, label_smoothing=..., reduction="sum")`.
    """
    return _HeadLoss.apply(  # type: ignore[no-untyped-call, no-any-return]
        h_PD, head.weight, head.bias, targets_P, label_smoothing
    )


@torch.no_grad()
def head_losses(h_PD: torch.Tensor, head: torch.nn.Linear, targets_P: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood (nats) of each position's target, (P,) float64, without gradients."""
    losses_P = torch.empty(len(targets_P), dtype=torch.float64, device=h_PD.device)
    for piece in _pieces(len(targets_P), head.weight.shape[0]):
        logits_CV = _logits(h_PD[piece], head.weight, head.bias)
        picked_C = logits_CV.gather(1, targets_P[piece, None])[:, 0]
        losses_P[piece] = (logits_CV.logsumexp(-1) - picked_C).double()
    return losses_P
