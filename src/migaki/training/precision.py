"""Which number format a device really computes fastest in, measured instead of believed.

A processor that advertises bfloat16 may be half as fast in it. The probe multiplies matrices of the model's own shapes
for a fraction of a second and keeps its figures for the machine.
"""

# Shapes: M tokens, K in, N out

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from migaki.core.cache import Cache
from migaki.core.store import read_json
from migaki.environment import cpu_name

__all__ = ["Precision", "measured_precision", "probe"]

_TOKENS = 512
"""Tokens in one multiplication, about those of a step on a small machine."""
_SECONDS = 0.15
"""Time of the whole probe."""
_SHAPES = 2
_WORTH = 1.2
"""A narrower format has to be this much faster: it loses digits, and timings differ by less than that anyway."""

Name = Literal["float32", "bfloat16", "float16"]
_TYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class Precision:
    """The format that a run computes in, and why."""

    dtype: Name
    gflops: Mapping[str, float]
    """Measured speed of each format in 10^9 multiplications and additions a second; empty where none was measured."""
    reason: str

    @property
    def torch_dtype(self) -> torch.dtype:
        return _TYPES[self.dtype]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measured_precision(model: nn.Module, device: torch.device, wanted: str) -> Precision:
    """The recipe's format, or for "auto" the fastest on this device at the model's shapes, from the cache if known.

    float16 is never chosen on its own: its range is so small that training needs loss scaling.
    """
    if wanted != "auto":
        return Precision(wanted, {}, "set in the recipe")  # type: ignore[arg-type]
    gflops = _remembered(_common_shapes(model), device)
    fast = gflops["bfloat16"] > _WORTH * gflops["float32"]
    shown = ", ".join(f"{name} {value:.0f}" for name, value in gflops.items())
    return Precision("bfloat16" if fast else "float32", gflops, f"GFLOP/s measured on this machine: {shown}")


def _common_shapes(model: nn.Module) -> list[tuple[int, int]]:
    """The (out, in) shapes in which the model computes most; a convolution is a product with each place it sees."""
    work: Counter[tuple[int, int]] = Counter()
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor) or isinstance(module, nn.Embedding):
            continue
        # Filters that see one channel each are no products of matrices.
        if weight.ndim == 2 or (weight.ndim >= 3 and weight.shape[1] > 1):
            work[(weight.shape[0], weight[0].numel())] += weight.numel()
    return [shape for shape, _ in work.most_common(_SHAPES)] or [(512, 512)]


def _remembered(shapes: Sequence[tuple[int, int]], device: torch.device) -> dict[str, float]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    facts = [name, device.type, str(torch.get_num_threads()), torch.__version__, str(sorted(shapes))]
    key = hashlib.sha256("\x1f".join(facts).encode()).hexdigest()[:32]

    def make(folder: Any) -> None:
        (folder / "gflops.json").write_text(json.dumps({"machine": facts, "gflops": probe(shapes, device)}) + "\n")

    found: dict[str, float] = read_json(Cache("precision").get(key, make) / "gflops.json")["gflops"]
    return found


def probe(shapes: Sequence[tuple[int, int]], device: torch.device, seconds: float = _SECONDS) -> dict[str, float]:
    """Measured GFLOP/s of each format; the best of several tries, since others may use the machine too."""
    each_s = seconds / (len(_TYPES) * len(shapes))
    found = {}
    for name, dtype in _TYPES.items():
        work, spent = 0.0, 0.0
        for n_out, n_in in shapes:
            x_MK, w_NK = (torch.randn(n, n_in, device=device).to(dtype) for n in (_TOKENS, n_out))
            work += 2.0 * _TOKENS * n_in * n_out
            spent += _fastest(x_MK, w_NK, each_s)
        found[name] = round(work / spent / 1e9, 1)
    return found


def _fastest(x_MK: torch.Tensor, w_NK: torch.Tensor, seconds: float) -> float:
    """Seconds of the fastest of the multiplications that fit into the time, at least two."""
    best, until, tries = float("inf"), time.perf_counter() + seconds, 0
    while tries < 2 or time.perf_counter() < until:
        _finish(x_MK.device)
        began = time.perf_counter()
        torch.nn.functional.linear(x_MK, w_NK)
        _finish(x_MK.device)
        best, tries = min(best, time.perf_counter() - began), tries + 1
    return best


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
