"""How deep each parameter lies, and what follows from it: its learning rate, and the epoch from which it is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from migaki.methods.tuned import blocks_of, final_norms

__all__ = ["Pace", "pace_of"]


@dataclass(frozen=True)
class Pace:
    """How a method moves its parameters, each told by its name in the network."""

    rate_factor: Callable[[str], float]
    """What the learning rate is multiplied with."""
    from_epoch: Callable[[str], int]
    """Epoch, from 0, before which the parameter does not move."""


def pace_of(network: Any, layer_decay: float, gradual: bool) -> Pace:
    """Slower rates and later epochs for lower layers, of what is trained now.

    With n blocks, what stands behind them (a norm, the head) has the full rate, block i (from 0) layer_decay ** (n - i)
    of it, and what stands before them layer_decay ** (n + 1). Gradually, what stands behind the blocks and the highest
    trained block start at once, and each lower one that is trained follows an epoch after the one above it.

    Raises:
        RecipeError: the blocks of the model cannot be found.
    Source: Howard & Ruder 2018, arXiv:1801.06146, sections 3.2 and 3.3; Clark et al. 2020, arXiv:2003.10555.
    """
    if layer_decay == 1.0 and not gradual:
        return Pace(lambda _: 1.0, lambda _: 0)
    n_blocks, depth = _depths(network)
    trained = {depth[name] for name, p in network.named_parameters() if p.requires_grad}
    below = sorted((d for d in trained if d <= n_blocks), reverse=True)
    epoch = {d: i for i, d in enumerate(below)} if gradual else {}
    return Pace(lambda name: layer_decay ** (n_blocks + 1 - depth[name]), lambda name: epoch.get(depth[name], 0))


def _depths(network: Any) -> tuple[int, dict[str, int]]:
    """Number of blocks n, and for each parameter 0 before the blocks, i + 1 in block i, n + 1 behind them."""
    blocks = blocks_of(network.backbone)
    inside = {id(p): i for i, block in enumerate(blocks, 1) for p in block.parameters()}
    behind = {id(p) for norm in final_norms(network.backbone, blocks) for p in norm.parameters()}
    own = {id(p) for p in network.backbone.parameters()}
    depth, passed = {}, False
    for name, p in network.named_parameters():
        # Modules stand in the order in which they compute, but for some norms that are known by their name.
        passed = passed or id(p) in inside
        after = id(p) in behind or id(p) not in own or passed
        depth[name] = inside.get(id(p), len(blocks) + 1 if after else 0)
    return len(blocks), depth
