"""What a training costs, from the shapes of a model, the rows, and the measured speed of this machine."""

# D hidden, F inner, L layers, N tokens

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from migaki.choosing.cards import ModelCard
from migaki.choosing.speed import Speed

__all__ = ["METHODS", "Estimate", "Work", "estimate"]

Kind = Literal["probe", "frozen", "lora", "full"]
METHODS: tuple[Kind, ...] = ("probe", "frozen", "lora", "full")

_FLOAT, _ADAM = 4, 8
"""Bytes of a weight or gradient, and of the two means that AdamW keeps of it."""
_GROUP_BYTES = 1536 << 20
"""What the loop lets a backward pass remember: `tasks/body.py`."""
_RANK, _FROZEN_BLOCKS = 8, 1
"""The defaults of lora and frozen."""


@dataclass(frozen=True, slots=True)
class Work:
    """The rows and how they are gone through."""

    train_rows: int
    judged_rows: int
    """Validation rows, judged once an epoch and once before."""
    mean_tokens: float
    """Of a row."""
    longest_tokens: int
    epochs: int = 3
    batch_size: int = 16
    labels: int = 2


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected cost of one training."""

    method: Kind
    peak_bytes: int
    seconds: float
    """Of training, with its validation."""
    trained: int
    """Parameters that are trained."""


def estimate(card: ModelCard, method: Kind, work: Work, speed: Speed, process_bytes: int) -> Estimate:
    """Memory and time of one run with the defaults of the method.

    Memory is what the process takes without a model, the float32 weights, for every trained parameter its gradient and
    AdamW's two means, and what the backward pass remembers of the tokens that are computed at once.

    Args:
        card: the model.
        method: how it is adapted.
        work: the rows.
        speed: of one block of this model.
        process_bytes: of Python with torch and transformers loaded.
    """
    trained = trained_parameters(card, method, work.labels)
    weights = _FLOAT * card.parameters
    state = (_FLOAT + _ADAM) * trained if method != "probe" else 0
    blocks = _FROZEN_BLOCKS if method == "frozen" else card.layers
    per_token = _FLOAT * (10 * card.hidden + 3 * card.inner)
    at_once = min(8192.0, max(256.0, _GROUP_BYTES / (card.layers * per_token)), work.batch_size * work.mean_tokens)
    at_once = max(at_once, float(work.longest_tokens))
    remembered = at_once * per_token * (blocks if method != "probe" else 1)
    # In a narrow format every matrix is cast once for the pass, and its copy remembered.
    copies = 2 * blocks * card.block_parameters if speed.precision == "bfloat16" and method != "probe" else 0
    peak = process_bytes + weights + state + int(remembered) + copies

    train_tokens = work.train_rows * work.mean_tokens
    judged_tokens = work.judged_rows * (work.epochs + 1) * work.mean_tokens
    steps = work.epochs * -(-work.train_rows // work.batch_size)
    if method == "probe":
        seconds = (train_tokens + work.judged_rows * work.mean_tokens) * card.layers * speed.forward_s
    elif method == "frozen":
        below = (train_tokens + judged_tokens) * (card.layers - blocks) * speed.forward_s
        seconds = below + (work.epochs * train_tokens * speed.trained_s + judged_tokens * speed.forward_s) * blocks
    else:
        each = speed.trained_s if method == "full" else speed.through_s
        seconds = (work.epochs * train_tokens * each + judged_tokens * speed.forward_s) * card.layers
    seconds += steps * trained * speed.update_s
    return Estimate(method, peak, seconds, trained)


def trained_parameters(card: ModelCard, method: Kind, labels: int) -> int:
    """Parameters that a method trains with its defaults, the classifier's head included."""
    head = 0 if card.decodes else (card.hidden + 1) * labels
    if method == "probe":
        return head
    if method == "frozen":
        return _FROZEN_BLOCKS * card.block_parameters + head
    if method == "lora":
        return card.layers * _RANK * sum(n_out + n_in for n_out, n_in in card.linear_shapes) + head
    return card.parameters + head
