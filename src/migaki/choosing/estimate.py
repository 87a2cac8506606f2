"""What a training costs, from the shapes of a model, the rows as they will be planned, and the measured speed of this machine."""

# D hidden, F inner, L layers, N tokens at once, V words

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Literal

import torch

from migaki.choosing.cards import ModelCard
from migaki.choosing.speed import Pass, Speed
from migaki.models.flat import filled_length
from migaki.tasks.body import tokens_at_once
from migaki.training.plan import FLAT_PADDING_COST, epoch_steps, step_rows, token_groups

__all__ = ["METHODS", "Estimate", "Work", "estimate"]

Kind = Literal["probe", "frozen", "lora", "full"]
METHODS: tuple[Kind, ...] = ("probe", "frozen", "lora", "full")

_FLOAT, _ADAM = 4, 8
"""Bytes of a weight or gradient, and of the two means that AdamW keeps of it."""
_RANK, _FROZEN_BLOCKS = 8, 1
"""The defaults of lora and frozen."""
_PLANNED_STEPS, _PLANNED_ROWS = 64, 1024
"""So many are planned as the loop would do it; the others are taken to be like them."""
_JUDGED_TOKENS = {False: 8192, True: 4096}
"""What an encoder and a decoder compute at once where nothing is remembered."""
_LOGITS_AT_ONCE = 1 << 24
"""As in `models.head`."""
_SCATTERED = 1.5
"""How much more memory the tensors of a pass take than they have numbers: sizes differ from step to step, and what glibc got
back fits the next ones badly. Measured, kernels aside: 1.47 in MiniLM (lora and full), 1.4 to 1.7 in SmolLM2."""
_BESIDE_BYTES = 40 << 20
"""Rows, modules that are loaded late, buffers of threads: what was left over in MiniLM when all else had been added up."""
_MOST_KERNELS_BYTES = 1024 << 18
"""oneDNN keeps 1024 kernels, each of which asks for 256 KiB."""


@dataclass(frozen=True, slots=True)
class Work:
    """The rows and how they are gone through."""

    train: Sequence[int]
    """Tokens of each train row."""
    valid: Sequence[int]
    """Tokens of each validation row; they are judged once an epoch and once before."""
    targets: float = 0.0
    """Tokens of a row that are learned, on average; of rows with a label none."""
    shared: int = 0
    """Tokens with which every row begins; a decoder computes them once a pass."""
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


@dataclass(frozen=True, slots=True)
class _Plan:
    """How rows are computed once."""

    groups: tuple[tuple[int, int], ...]
    """Of each pass the tokens, and the sum of the squares of its rows' lengths."""
    times: float
    """How many passes there are for each of these."""

    several: bool = False
    """Whether some step is computed in several passes, the second of which finds the gradients of the first."""

    @property
    def passes(self) -> float:
        return self.times * len(self.groups)

    @property
    def largest(self) -> int:
        """Tokens of the largest pass."""
        return max((tokens for tokens, _ in self.groups), default=0)

    def seconds(self, block: Pass) -> float:
        """Of one block."""
        return self.times * sum(block.seconds(tokens, pairs) for tokens, pairs in self.groups)

    @property
    def sizes(self) -> set[int]:
        """The different numbers of tokens, for each of which kernels are made."""
        return {tokens for tokens, _ in self.groups}

    def first_seconds(self, block: Pass) -> float:
        """What the first pass of each size takes longer, in all blocks together."""
        return sum(map(block.first_seconds, self.sizes))


def estimate(card: ModelCard, method: Kind, work: Work, speed: Speed, process_bytes: int) -> Estimate:
    """Memory and time of one run with the defaults of the method.

    Args:
        card: the model.
        method: how it is adapted.
        work: the rows.
        speed: of this model.
        process_bytes: of Python with torch and transformers loaded.
    """
    trained = trained_parameters(card, method, work.labels)
    step, judged = _epoch(card, work, speed), _judging(card, work.valid, work, speed)
    if method == "probe":
        once = _judging(card, [*work.train, *work.valid], work, speed)
        seconds = card.layers * once.seconds(speed.exact) + once.first_seconds(speed.exact) + speed.fit.start_s
        seconds += len(work.train) * card.hidden * work.labels * speed.fit.number_s
        passing = _passing_bytes(card, once.largest, work, speed) + int(speed.fit.start_bytes)
        passing += _kernel_bytes((once, speed.exact))
        return Estimate(method, process_bytes + _BESIDE_BYTES + _FLOAT * card.parameters + passing, seconds, trained)
    held = _BESIDE_BYTES + _held_bytes(card, method, trained, step, judged, work, speed)
    # Weights lie in their file until they are changed.
    fresh = held if method == "full" else held - _FLOAT * card.parameters
    seconds = _seconds(card, method, trained, step, judged, work, speed) + fresh * speed.byte_s
    return Estimate(method, process_bytes + held, seconds, trained)


def _blocks_and_passes(card: ModelCard, method: Kind, speed: Speed) -> tuple[int, Pass, Pass]:
    """Blocks through which a step goes back, and what it costs there and in the head."""
    if method == "frozen":
        return _FROZEN_BLOCKS, speed.full, speed.head_lora
    return card.layers, *((speed.lora, speed.head_lora) if method == "lora" else (speed.full, speed.head_full))


def _seconds(
    card: ModelCard, method: Kind, trained: int, step: _Plan, judged: _Plan, work: Work, speed: Speed
) -> float:
    blocks, block, head = _blocks_and_passes(card, method, speed)
    looks = work.epochs + 1
    seconds = blocks * (work.epochs * step.seconds(block) + looks * judged.seconds(speed.forward))
    seconds += step.first_seconds(block) + judged.first_seconds(speed.forward)
    if method == "frozen":
        # What enters the lowest trained block is computed once and kept.
        once = _judging(card, [*work.train, *work.valid], work, speed)
        seconds += (card.layers - blocks) * once.seconds(speed.forward)
    seconds += work.epochs * _head_seconds(card, head, step.passes, len(work.train) * work.targets)
    seconds += looks * _head_seconds(card, speed.head_forward, judged.passes, len(work.valid) * work.targets)
    if method == "full":
        # The blocks that were measured have next to no words; the gradient of a head is measured with it.
        seconds += work.epochs * step.passes * card.vocabulary * card.hidden * speed.clear_s
    return seconds + work.epochs * epoch_steps(len(work.train), work.batch_size) * trained * speed.update_s


def _held_bytes(
    card: ModelCard, method: Kind, trained: int, step: _Plan, judged: _Plan, work: Work, speed: Speed
) -> int:
    """The float32 weights, AdamW's two means of what is trained, and the most of what is needed one after another: what a
    step remembers for its backward pass, its gradients, and two copies of what is trained while the start is judged."""
    blocks, block, _ = _blocks_and_passes(card, method, speed)
    remembered = blocks * (block.start_bytes + block.token_bytes * step.largest)
    # The gradient of the words is made while their logits are there, and once more when it is handed on.
    words = _FLOAT * card.vocabulary * card.hidden if card.decodes and method == "full" else 0
    gradients = _FLOAT * trained
    beside = gradients if step.several else 0
    remembered = int(_SCATTERED * (remembered + _logit_bytes(card, step.largest, work) + beside))
    judging = gradients + max(_passing_bytes(card, judged.largest, work, speed), gradients)
    steady = _FLOAT * card.parameters + _ADAM * trained + _kernel_bytes((step, block), (judged, speed.forward))
    return steady + max(remembered + 2 * words, gradients + words, gradients + judging)


def _kernel_bytes(*plans: tuple[_Plan, Pass]) -> int:
    """Of the kernels for every size of a pass, which stay."""
    return min(int(sum(len(plan.sizes) * block.size_bytes for plan, block in plans)), _MOST_KERNELS_BYTES)


def _epoch(card: ModelCard, work: Work, speed: Speed) -> _Plan:
    """The steps of one epoch, in groups as the loop plans them."""
    config = SimpleNamespace(hidden_size=card.hidden, num_hidden_layers=card.layers, intermediate_size=card.inner)
    most, n_steps = tokens_at_once(config, torch.device("cpu")), epoch_steps(len(work.train), work.batch_size)
    planned = min(n_steps, _PLANNED_STEPS)
    cost = FLAT_PADDING_COST if speed.flat else 1.0
    groups: list[list[int]] = []
    for at in range(planned):
        rows = [work.train[int(i)] for i in step_rows(len(work.train), work.batch_size, 0, at)]
        groups += [[rows[i] for i in group] for group in token_groups(rows, most, None, cost)]
    found = _planned(groups, n_steps / planned, work.shared, speed)
    return replace(found, several=len(groups) > planned)


def _judging(card: ModelCard, rows: Sequence[int], work: Work, speed: Speed) -> _Plan:
    """All rows once, without anything being remembered."""
    few = rows[:_PLANNED_ROWS]
    groups = [[few[i] for i in group] for group in token_groups(few, _JUDGED_TOKENS[card.decodes])]
    return _planned(groups, len(rows) / max(len(few), 1), work.shared, speed)


def _planned(groups: Sequence[Sequence[int]], times: float, shared: int, speed: Speed) -> _Plan:
    def tokens(rows: Sequence[int]) -> int:
        return filled_length(sum(rows) - shared * (len(rows) - 1)) if speed.flat else len(rows) * max(rows)

    return _Plan(tuple((tokens(rows), len(rows) * max(rows) ** 2) for rows in groups), times)


def _head_seconds(card: ModelCard, head: Pass, passes: float, positions: float) -> float:
    if not (card.decodes and positions):
        return 0.0
    return card.vocabulary * passes * head.seconds(positions / passes)


def _logit_bytes(card: ModelCard, tokens: int, work: Work) -> int:
    """Logits, their exponentials and their narrow or wide copy, of as many targets as are computed at once."""
    if not card.decodes:
        return 0
    targets = int(tokens * work.targets * len(work.train) / max(sum(work.train), 1))
    return 3 * _FLOAT * min(_LOGITS_AT_ONCE, targets * card.vocabulary)


def _passing_bytes(card: ModelCard, tokens: int, work: Work, speed: Speed) -> int:
    """The most that is there at once where nothing is remembered: in a block, or behind it in the head."""
    narrow = 2 if speed.precision == "bfloat16" else _FLOAT
    size = card.head_size or card.hidden // card.heads
    own, shared = card.heads * size, (card.kv_heads or card.heads) * size
    # Queries, keys and values are made in the narrow format and attended to in float32; then the inner part and what is made
    # of it.
    attention = narrow * (own + 2 * shared) + _FLOAT * (2 * own + 2 * shared)
    inner = narrow * card.inner * (3 if card.gated else 2)
    in_block = tokens * (2 * _FLOAT * card.hidden + max(attention, inner))
    return int(_SCATTERED * max(in_block, _logit_bytes(card, tokens, work)))


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
