"""How fast this machine computes a model: measured on a few of its blocks, once, and kept for the machine.

Passes of several sizes are measured: small ones cost what it takes to start their operations and to cast the weights to a
narrower format, and large ones no longer fit into the caches. What lies between is interpolated. In attention two tokens of one
row add a part of their own, which longer rows tell.
"""

# N tokens of all rows, T tokens of each row, P positions with a target, D hidden, V words

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from migaki.choosing.cards import ModelCard
from migaki.choosing.stand_in import StandIn
from migaki.core.cache import Cache
from migaki.core.store import read_json
from migaki.environment import cpu_name
from migaki.models.head import head_loss, head_losses
from migaki.training.monitor import allocated_bytes
from migaki.training.precision import probe

__all__ = ["Fit", "Pass", "Speed", "measured_speed"]

_FORMAT = "16"
_FILE = "speed.json"
_OPERATIONS = 3e10
"""Multiplications and additions of the largest pass that is measured: about a tenth of a second."""
_MOST_TOKENS, _LEAST_TOKENS = 8192, 128
_SHORT, _LONG = 32, 256
"""Tokens of a row in the passes that are measured."""
_OTHER_SIZES = {"forward": (96, 160, 288), "full": (192, 224, 320), "lora": (384, 416, 448)}
"""Passes that are computed to see what the kernels for one more size take; small ones, since these do not depend on it, and
for each way others, since one kernel serves all ways."""
_BLOCK_PARAMETERS, _MOST_BLOCKS = 8_000_000, 2
"""So many small blocks are measured together that what lies before them does not count."""
_WORTH = 1.2
"""As in `training.precision`: how much faster a narrower format has to be."""
_HEAD_NUMBERS, _HEAD_POSITIONS = 1 << 25, (64, 256)
"""All words of SmolLM2: a head of a tenth of them stays in caches and in memory that was had before, and a word of it seemed to
cost two thirds of what it does."""
_UPDATED = 1 << 24
"""Numbers: too many for caches, with their gradients and means."""
_TRIES, _ENOUGH_S = 7, 0.6
"""The median of so many tries, since others may use the machine too, as they may later; fewer where they take long."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What it costs to compute tokens through one block at once, or positions through a word of the head."""

    tokens: tuple[int, ...]
    """Sizes that were measured, rising."""
    measured_s: tuple[float, ...]
    """Seconds of each, the pairs of their tokens aside."""
    first_s: tuple[float, ...] = ()
    """What the first pass of each size takes longer, through however many blocks: kernels are made for its sizes."""
    pair_s: float = 0.0
    """For every two tokens of one row."""
    start_bytes: float = 0.0
    """What the backward pass remembers whatever the number of tokens: weights in a narrower format."""
    token_bytes: float = 0.0
    """What it remembers of every token."""
    size_bytes: float = 0.0
    """What the kernels for one more size take for good, through however many blocks."""

    def seconds(self, tokens: float, pairs: float = 0.0) -> float:
        """Of one pass; `pairs`: the sum over its rows of the square of their tokens.

        >>> Pass((100, 200), (1.0, 1.5)).seconds(150), Pass((100, 200), (1.0, 1.5)).seconds(400)
        (1.25, 2.5)
        """
        return max(self._between(self.measured_s, tokens), 0.0) + pairs * self.pair_s

    def first_seconds(self, tokens: float) -> float:
        """What the first pass of this size takes longer."""
        return max(self._between(self.first_s, tokens), 0.0) if self.first_s else 0.0

    def _between(self, values: Sequence[float], tokens: float) -> float:
        at = next((i for i in range(1, len(self.tokens) - 1) if tokens <= self.tokens[i]), len(self.tokens) - 1)
        slope = (values[at] - values[at - 1]) / (self.tokens[at] - self.tokens[at - 1])
        return values[at] + slope * (tokens - self.tokens[at])


@dataclass(frozen=True, slots=True)
class Fit:
    """What it costs to fit a head to features."""

    start_s: float
    """Of loading what fits it, and of a fit however small it is."""
    start_bytes: float
    number_s: float
    """Of all penalties, a number among the features and class."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one model on this machine, in the number format that is fastest here."""

    forward: Pass
    """A block, computed only."""
    exact: Pass
    """The same in float32, as features are that a head is fitted to and other runs may find in the cache."""
    lora: Pass
    """A block computed and differentiated for low-rank factors and what lies below, weights frozen."""
    full: Pass
    """A block computed and differentiated for weights and what lies below."""
    head_forward: Pass
    """The logits and the loss of a decoder; of an encoder nothing."""
    head_lora: Pass
    """The same, differentiated for what lies below."""
    head_full: Pass
    """The same, differentiated for the weights too."""
    update_s: float
    """Seconds of AdamW, with the norm of the gradient, a parameter and step."""
    clear_s: float
    """Seconds of a new tensor of zeros that is added to another, a number: what gradients of word vectors take longer, which
    are too large to lie where others lay before."""
    byte_s: float
    """Seconds of a byte that a process uses for the first time: the system gives memory and clears it page by page."""
    fit: Fit
    """Of a head that is fitted instead of trained."""
    precision: str
    flat: bool = True
    """Whether rows are computed without padding."""


def measured_speed(card: ModelCard) -> Speed:
    """Ten seconds or some of measurement for each shape of blocks, kept in the cache for this machine."""
    found = _kept([card.family, str(card.linear_shapes), str(card.head_size), str(card.heads)], lambda: _measure(card))
    passes = {name: Pass(**_tuples(values)) for name, values in found.items() if isinstance(values, dict)}
    numbers = _kept(["numbers"], _measured_numbers)
    fit = Fit(**_kept(["fit"], lambda: {"fit": asdict(_measured_fit())})["fit"])
    return Speed(
        **passes,
        update_s=numbers["update_s"],
        clear_s=numbers["clear_s"],
        byte_s=numbers["byte_s"],
        fit=fit,
        precision=found["precision"],
        flat=found["flat"],
    )


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _kept(of: Sequence[str], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    threads = str(torch.get_num_threads())
    facts = [_FORMAT, cpu_name(), threads, torch.__version__, transformers.__version__, *of]
    key = hashlib.sha256("\x1f".join(facts).encode()).hexdigest()[:32]

    def make(folder: Path) -> None:
        (folder / _FILE).write_text(json.dumps({"machine": facts, **measure()}, indent=1) + "\n")

    found: dict[str, Any] = read_json(Cache("speed").get(key, make) / _FILE)
    return found


def _measure(card: ModelCard) -> dict[str, Any]:
    gflops = probe(card.linear_shapes[-2:], torch.device("cpu"), 0.15)
    narrow = gflops["bfloat16"] > _WORTH * gflops["float32"]
    dtype = torch.bfloat16 if narrow else torch.float32
    n_blocks = max(1, min(_MOST_BLOCKS, _BLOCK_PARAMETERS // card.block_parameters))
    with torch.random.fork_rng(devices=[]):
        network = StandIn(card, n_blocks)
        ways = {"forward": _Way(network, card, n_blocks, dtype, False, _OTHER_SIZES["forward"])}
        if narrow:
            ways["exact"] = _Way(network, card, n_blocks, torch.float32, False, _OTHER_SIZES["forward"])
        ways["full"] = _Way(network, card, n_blocks, dtype, True, _OTHER_SIZES["full"])
        adapted = StandIn(card, n_blocks).adapted()
        ways["lora"] = _Way(adapted, card, n_blocks, dtype, True, _OTHER_SIZES["lora"])
        found: dict[str, Any] = {name: asdict(way) for name, way in _block_passes(ways).items()}
        for name, head in _head_passes(card, dtype).items():
            found[f"head_{name}"] = asdict(head)
    found.setdefault("exact", found["forward"])
    return {"precision": str(dtype).removeprefix("torch."), "flat": network.body.use_flat, **found}


@dataclass(frozen=True, slots=True)
class _Way:
    """How blocks are computed, and the passes by which it is measured."""

    network: StandIn
    card: ModelCard
    n_blocks: int
    dtype: torch.dtype
    backward: bool
    others: tuple[int, ...]
    """Sizes that tell what the kernels for one more take."""

    @property
    def sizes(self) -> list[int]:
        """Tokens of the passes of short rows, rising."""
        times = 6 if self.backward else 2
        most = int(_OPERATIONS / (times * self.n_blocks * self.card.block_parameters))
        most = min(max(most // _LEAST_TOKENS * _LEAST_TOKENS, _LEAST_TOKENS), _MOST_TOKENS)
        sizes = (size for size in (most // 64, most // 16, most // 4, most) if size >= _SHORT)
        return [size // _SHORT * _SHORT for size in sizes]

    @property
    def at(self) -> int:
        """Which of the sizes long rows are measured at: a middle one, which the caches still hold."""
        sizes = self.sizes
        return max(len(sizes) - 2, 0) if sizes[-2] >= _LONG else len(sizes) - 1

    @property
    def long(self) -> tuple[int, int]:
        """Tokens of the pass of long rows, and of one row."""
        row = min(_LONG, self.sizes[self.at])
        return self.sizes[self.at] // row * row, row

    def run(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        with (
            torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32),
            torch.set_grad_enabled(self.backward),
        ):
            out: torch.Tensor = self.network(rows)
        return out

    def work(self, size: int, row: int) -> Callable[[], None]:
        """A pass of `size` tokens in rows of `row`."""
        rows = _rows(size // row, row)

        def compute() -> None:
            out = self.run(rows)
            if self.backward:
                out.float().sum().backward()  # type: ignore[no-untyped-call]
                self.network.zero_grad(set_to_none=True)

        return compute


def _block_passes(ways: dict[str, _Way]) -> dict[str, Pass]:
    works = [
        work for way in ways.values() for work in (*(way.work(size, _SHORT) for size in way.sizes), way.work(*way.long))
    ]
    times = iter(_first_and_usual(*works))
    seconds = {name: ([next(times) for _ in way.sizes], next(times)[1]) for name, way in ways.items()}
    pairs_s = {name: _pair_seconds(ways[name], short, long_s) for name, (short, long_s) in seconds.items()}
    # Attention is the same with factors beside the weights, and told apart worse.
    pairs_s["lora"] = pairs_s["full"]
    return {name: _block_pass(way, seconds[name][0], pairs_s[name]) for name, way in ways.items()}


def _pair_seconds(way: _Way, short: Sequence[tuple[float, float]], long_s: float) -> float:
    """What long rows take longer than as many tokens of short ones, for two tokens of one row."""
    n_tokens, row = way.long
    rest_s = long_s - short[way.at][1] * n_tokens / way.sizes[way.at]
    return max(rest_s, 0.0) / (way.n_blocks * n_tokens * (row - _SHORT))


def _block_pass(way: _Way, short: Sequence[tuple[float, float]], pair_s: float) -> Pass:
    sizes, n_blocks = way.sizes, way.n_blocks
    few, many = (_remembered(way.network, partial(way.run, _rows(n // _SHORT, _SHORT))) for n in sizes[-2:])
    token_bytes = (many - few) / (sizes[-1] - sizes[-2]) / n_blocks
    others = [size for size in way.others if size not in sizes]
    before = allocated_bytes()
    for size in others:
        way.work(size, _SHORT)()
    return Pass(
        tuple(sizes),
        tuple(s / n_blocks - pair_s * size * _SHORT for (_, s), size in zip(short, sizes, strict=True)),
        tuple(first_s - usual_s for first_s, usual_s in short),
        pair_s,
        max(many / n_blocks - token_bytes * sizes[-1], 0.0),
        token_bytes,
        max(allocated_bytes() - before, 0) / max(len(others), 1),
    )


def _rows(n_rows: int, length: int) -> list[list[int]]:
    """Token ids of rows that are one shorter and one longer in turn, as no two rows of a user have one length."""
    lengths = [length - 1 + 2 * (i % 2) for i in range(n_rows - n_rows % 2)] + [length] * (n_rows % 2)
    return [[3 + (i * 7 + k * 3) % 200 for k in range(n)] for i, n in enumerate(lengths)]


def _remembered(network: nn.Module, run: Callable[[], torch.Tensor]) -> int:
    """Bytes that are kept for the backward pass, the weights themselves aside."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        # Without the graph that made it, which would hold itself through what it remembers.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = run()  # while it is there, nothing else takes the place of what is remembered
    del kept
    return sum(found.values())


def _head_passes(card: ModelCard, dtype: torch.dtype) -> dict[str, Pass]:
    """A word's share of what the positions of a pass cost in the head."""
    names = ("forward", "lora", "full")
    if not card.decodes:
        return dict.fromkeys(names, Pass((1, 2), (0.0, 0.0)))
    words = min(card.vocabulary, _HEAD_NUMBERS // card.hidden)
    times = iter(
        _first_and_usual(*(_head_work(card.hidden, words, dtype, name, n) for name in names for n in _HEAD_POSITIONS))
    )
    return {name: Pass(_HEAD_POSITIONS, tuple(next(times)[1] / words for _ in _HEAD_POSITIONS)) for name in names}


def _head_work(hidden: int, words: int, dtype: torch.dtype, name: str, positions: int) -> Callable[[], None]:
    head = nn.Linear(hidden, words, bias=False).requires_grad_(name == "full")
    h_PD = torch.randn(positions, hidden, requires_grad=name != "forward")
    targets_P = torch.arange(positions) % words

    def work() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            if name == "forward":
                head_losses(h_PD, head, targets_P)
                return
            loss = head_loss(h_PD, head, targets_P, 0.0)
        loss.backward()  # type: ignore[no-untyped-call]
        head.zero_grad(set_to_none=True)

    return work


def _measured_numbers() -> dict[str, Any]:
    return {"update_s": _update_seconds(), "clear_s": _clear_seconds(), "byte_s": _byte_seconds()}


def _update_seconds() -> float:
    """Gradients lie there, as they do behind a backward pass."""
    weights = [nn.Parameter(torch.randn(_UPDATED // 4)) for _ in range(4)]
    optimizer = torch.optim.AdamW(weights, fused=True)
    for weight in weights:
        weight.grad = torch.randn_like(weight)

    def work() -> None:
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()

    return _first_and_usual(work)[0][1] / _UPDATED


def _clear_seconds() -> float:
    gradient = torch.zeros(_UPDATED)
    return _first_and_usual(lambda: gradient.add_(torch.zeros(_UPDATED)))[0][1] / _UPDATED


def _byte_seconds() -> float:
    """In a process of its own, which gives the memory back. A host below a virtual machine that has to find memory first takes
    five times as long, which cannot be foretold; the median counts."""
    done = subprocess.run([sys.executable, "-c", _TOUCHING], capture_output=True, text=True, check=True)  # noqa: S603
    return statistics.median(map(float, done.stdout.split())) / _SLICE_BYTES


_SLICES, _SLICE_BYTES, _PIECE_BYTES, _PAGE_BYTES = 8, 1 << 27, 1 << 20, 4096
_TOUCHING = f"""
import time
kept = []
for _ in range({_SLICES}):
    began = time.perf_counter()
    for _ in range({_SLICE_BYTES // _PIECE_BYTES}):
        kept.append(bytearray({_PIECE_BYTES}))
        kept[-1][::{_PAGE_BYTES}] = bytes({_PIECE_BYTES // _PAGE_BYTES})
    print(time.perf_counter() - began)
"""


def _measured_fit() -> Fit:
    """The regression of the method probe on random clusters, in a process that has not loaded yet what it needs. As features
    of encoders do, they vary along few axes more than along the others, which takes the solver more steps."""
    done = subprocess.run([sys.executable, "-c", _FITTING], capture_output=True, text=True, check=True)  # noqa: S603
    start_s, start_bytes, few_s, many_s = map(float, done.stdout.split()[-4:])
    few, many = (_FIT_ROWS * _FIT_WIDTH * n_classes for n_classes in _FIT_CLASSES)
    number_s = max(many_s - few_s, 0.0) / (many - few)
    return Fit(start_s + max(few_s - number_s * few, 0.0), start_bytes, number_s)


_FIT_ROWS, _FIT_WIDTH, _FIT_CLASSES = 512, 384, (16, 64)
_FITTING = f"""
import time
import numpy as np
from migaki.methods.logistic import fit_present
from migaki.training.monitor import present_bytes
before, began = present_bytes(), time.perf_counter()
import sklearn.linear_model
found = [time.perf_counter() - began, present_bytes() - before]
dice = np.random.default_rng(0)
axes_D = np.arange(1, {_FIT_WIDTH} + 1) ** -0.5
for n_classes in {_FIT_CLASSES}:
    labels_N = np.arange({_FIT_ROWS}) % n_classes
    x_ND = dice.standard_normal((n_classes, {_FIT_WIDTH}))[labels_N] + 3 * dice.standard_normal(({_FIT_ROWS}, {_FIT_WIDTH}))
    x_ND *= axes_D
    x_ND *= {_FIT_WIDTH}**0.5 / np.linalg.norm(x_ND, axis=1, keepdims=True)
    began = time.perf_counter()
    fit_present(x_ND, labels_N, np.ones({_FIT_ROWS}), n_classes, (x_ND[:64], labels_N[:64]))
    found.append(time.perf_counter() - began)
print(*found)
"""


def _first_and_usual(*works: Callable[[], object]) -> list[tuple[float, float]]:
    """Seconds of the first try of each, which also gets ready, and the median of some more. They take turns: a second in which
    the machine is slow hits a try of each, and not all tries of one."""
    found: list[list[float]] = [[] for _ in works]
    tries, began = 0, time.perf_counter()
    while tries < 2 or (tries <= _TRIES and time.perf_counter() - began < _ENOUGH_S * len(works)):
        for work, seconds in zip(works, found, strict=True):
            at = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - at)
        tries += 1
    return [(seconds[0], statistics.median(seconds[1:])) for seconds in found]
